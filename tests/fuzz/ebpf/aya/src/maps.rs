//! Maps in this thread's memory, told apart by the address of their static.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap as Table, VecDeque},
    hash::Hash,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
};

thread_local! {
    /// Contents by the map's address. Never freed while the thread lives: programs hold plain references.
    static CONTENTS: RefCell<BTreeMap<usize, &'static dyn Any>> = const { RefCell::new(BTreeMap::new()) };
}

fn contents<T: 'static>(map: usize, make: impl FnOnce() -> T) -> &'static T {
    CONTENTS.with_borrow_mut(|all| {
        all.entry(map)
            .or_insert_with(|| Box::leak(Box::new(make())))
            .downcast_ref()
            .expect("one static holds one type")
    })
}

/// BPF_MAP_TYPE_ARRAY, and its per-CPU form: a thread is a CPU here.
pub struct Array<T> {
    entries: u32,
    kind: PhantomData<fn() -> T>,
}

/// As [`Array`].
pub type PerCpuArray<T> = Array<T>;

impl<T: 'static> Array<T> {
    /// A map of so many elements.
    pub const fn pinned(entries: u32, _flags: u32) -> Self {
        Array {
            entries,
            kind: PhantomData,
        }
    }
    /// The same without a pin.
    pub const fn with_max_entries(entries: u32, flags: u32) -> Self {
        Self::pinned(entries, flags)
    }
    /// The element, all zero at first as in the kernel.
    pub fn get_ptr_mut(&self, index: u32) -> Option<*mut T> {
        let all = contents(self as *const Self as usize, || {
            let n = self.entries as usize;
            let mut all = Vec::<MaybeUninit<T>>::with_capacity(n);
            all.resize_with(n, MaybeUninit::zeroed);
            all.leak().as_mut_ptr().cast::<T>()
        });
        // SAFETY: inside the allocation.
        (index < self.entries).then(|| unsafe { all.add(index as usize) })
    }
    /// The element.
    pub fn get_ptr(&self, index: u32) -> Option<*const T> {
        self.get_ptr_mut(index).map(<*mut T>::cast_const)
    }
    /// The element.
    pub fn get(&self, index: u32) -> Option<&T> {
        // SAFETY: never freed, zero is a value of all types that maps hold, and this thread alone has it.
        self.get_ptr(index).map(|p| unsafe { &*p })
    }
}

/// BPF_MAP_TYPE_HASH.
pub struct HashMap<K, V> {
    entries: u32,
    kind: PhantomData<fn() -> (K, V)>,
}

impl<K: Eq + Hash + 'static, V: Copy + 'static> HashMap<K, V> {
    /// A map of at most so many elements.
    pub const fn pinned(entries: u32, _flags: u32) -> Self {
        HashMap {
            entries,
            kind: PhantomData,
        }
    }
    fn table(&self) -> &'static RefCell<Table<K, &'static V>> {
        contents(self as *const Self as usize, RefCell::default)
    }
    /// The value of a key.
    ///
    /// # Safety
    /// None needed; aya's is unsafe.
    pub unsafe fn get(&self, key: impl std::borrow::Borrow<K>) -> Option<&V> {
        self.table().borrow().get(key.borrow()).copied()
    }
    /// User space: replaces all elements.
    pub fn fill(&self, all: impl IntoIterator<Item = (K, V)>) {
        let mut table = self.table().borrow_mut();
        table.clear();
        for (k, v) in all.into_iter().take(self.entries as usize) {
            // Leaked, as a program may hold the reference; tests fill maps a few times.
            table.insert(k, Box::leak(Box::new(v)));
        }
    }
}

/// BPF_MAP_TYPE_RINGBUF.
pub struct RingBuf {
    bytes: u32,
}

struct Ring {
    records: RefCell<VecDeque<Vec<u8>>>,
    used: Cell<usize>,
}

impl RingBuf {
    /// A ring of so many bytes.
    pub const fn pinned(bytes: u32, _flags: u32) -> Self {
        RingBuf { bytes }
    }
    /// The same without a pin.
    pub const fn with_byte_size(bytes: u32, flags: u32) -> Self {
        Self::pinned(bytes, flags)
    }
    fn ring(&self) -> &'static Ring {
        contents(self as *const Self as usize, || Ring {
            records: RefCell::default(),
            used: Cell::new(0),
        })
    }
    /// Room for one record; none if the ring is full.
    pub fn reserve<T: 'static>(&self, _flags: u64) -> Option<RingBufEntry<T>> {
        // The kernel puts 8 bytes before each record and keeps them aligned.
        let size = size_of::<T>().next_multiple_of(8) + 8;
        let ring = self.ring();
        if ring.used.get() + size > self.bytes as usize {
            return None;
        }
        ring.used.set(ring.used.get() + size);
        Some(RingBufEntry {
            ring,
            slot: Box::new(MaybeUninit::zeroed()),
        })
    }
    /// User space: the oldest record.
    pub fn pop(&self) -> Option<Vec<u8>> {
        let ring = self.ring();
        let record = ring.records.borrow_mut().pop_front()?;
        let size = record.len().next_multiple_of(8) + 8;
        ring.used.set(ring.used.get().saturating_sub(size));
        Some(record)
    }
}

/// As aya has it.
pub mod ring_buf {
    pub use super::RingBufEntry;
}

/// A reserved record.
pub struct RingBufEntry<T> {
    ring: &'static Ring,
    slot: Box<MaybeUninit<T>>,
}

impl<T> RingBufEntry<T> {
    /// Hands it to user space.
    pub fn submit(self, _flags: u64) {
        let from = self.slot.as_ptr().cast::<u8>();
        // SAFETY: size_of::<T>() bytes, zeroed at first.
        let bytes = unsafe { std::slice::from_raw_parts(from, size_of::<T>()) };
        self.ring.records.borrow_mut().push_back(bytes.to_vec());
    }
}

impl<T> Deref for RingBufEntry<T> {
    type Target = MaybeUninit<T>;
    fn deref(&self) -> &MaybeUninit<T> {
        &self.slot
    }
}

impl<T> DerefMut for RingBufEntry<T> {
    fn deref_mut(&mut self) -> &mut MaybeUninit<T> {
        &mut self.slot
    }
}
