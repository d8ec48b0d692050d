//! Events of domains and the end of a connection, as closures: the crate `virt` has no wrapper for them.
//!
//! libvirt calls back from the thread that runs its event loop ([`run_loop`]), which must be registered before a connection is
//! opened. A panic in a callback would have to pass through C: it ends the process instead (`extern "C"`), and the agent starts
//! another one.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::transmute,
    ptr::null_mut,
    sync::Arc,
    thread,
    time::Duration,
};

use agent_virt_proto::message::{Event, EventKind};
use virt::{
    connect::Connect,
    error::Error,
    event::{event_register_default_impl, event_run_default_impl},
    sys,
};

/// Told of each event.
pub type Tell = Arc<dyn Fn(Event) + Send + Sync>;
/// Told once when the connection has ended: in words.
pub type Ended = Arc<dyn Fn(&'static str) + Send + Sync>;

/// As libvirt stores any callback; which arguments it is called with depends on the event's id.
type Generic = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type Lifecycle =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type IoError = unsafe extern "C" fn(
    sys::virConnectPtr,
    sys::virDomainPtr,
    *const c_char,
    *const c_char,
    c_int,
    *const c_char,
    *mut c_void,
);

/// Registers libvirt's event loop and runs it on a thread of its own, for as long as the process lives.
///
/// # Errors
/// libvirt refuses.
pub fn run_loop() -> Result<(), Error> {
    event_register_default_impl()?;
    thread::spawn(|| {
        loop {
            if event_run_default_impl().is_err() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    });
    Ok(())
}

/// The callbacks of one connection; they end with this.
pub struct Watch {
    connect: Connect,
    ids: Vec<c_int>,
    closes: bool,
}

impl Watch {
    /// Registers all.
    ///
    /// # Errors
    /// The connection is gone, or the driver has no events.
    pub fn new(connect: &Connect, tell: &Tell, ended: &Ended) -> Result<Watch, Error> {
        let mut watch = Watch {
            connect: connect.clone(),
            ids: Vec::new(),
            closes: false,
        };
        // SAFETY: libvirt calls a callback of an id with the arguments that belong to that id (libvirt-domain.h), so the function
        // has the type there that it has here.
        let (lifecycle, io_error) = unsafe {
            (
                transmute::<Lifecycle, Generic>(on_lifecycle),
                transmute::<IoError, Generic>(on_io_error),
            )
        };
        watch.register(sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, tell)?;
        // Not all drivers have this one.
        let _ = watch.register(sys::VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, io_error, tell);
        let opaque = Box::into_raw(Box::new(Arc::clone(ended)));
        // SAFETY: the connection lives; libvirt gives `opaque` back to `free_ended` once, when the callback goes.
        let done = unsafe {
            sys::virConnectRegisterCloseCallback(
                connect.as_ptr(),
                Some(on_close),
                opaque.cast(),
                Some(free_ended),
            )
        };
        if done < 0 {
            // SAFETY: libvirt has not taken it.
            drop(unsafe { Box::from_raw(opaque) });
            return Err(Error::last_error());
        }
        watch.closes = true;
        Ok(watch)
    }

    fn register(
        &mut self,
        id: sys::virDomainEventID,
        callback: Generic,
        tell: &Tell,
    ) -> Result<(), Error> {
        let opaque = Box::into_raw(Box::new(Arc::clone(tell)));
        // SAFETY: the connection lives; a null domain means all; `opaque` comes back to `free_tell` once.
        let number = unsafe {
            sys::virConnectDomainEventRegisterAny(
                self.connect.as_ptr(),
                null_mut(),
                id.cast_signed(),
                Some(callback),
                opaque.cast(),
                Some(free_tell),
            )
        };
        if number < 0 {
            // SAFETY: libvirt has not taken it.
            drop(unsafe { Box::from_raw(opaque) });
            return Err(Error::last_error());
        }
        self.ids.push(number);
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // libvirt holds the connection for each callback: without this it would never be closed.
        for id in &self.ids {
            // SAFETY: the connection lives, and the id is of this connection.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.connect.as_ptr(), *id) };
        }
        if self.closes {
            // SAFETY: as above.
            unsafe {
                sys::virConnectUnregisterCloseCallback(self.connect.as_ptr(), Some(on_close))
            };
        }
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn words(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// # Safety
/// As libvirt calls it: `domain` lives, `opaque` is a [`Tell`] that was registered.
unsafe fn tell(domain: sys::virDomainPtr, opaque: *mut c_void, kind: EventKind, detail: String) {
    // SAFETY: by contract; the name belongs to the domain.
    let (name, tell) = unsafe {
        (
            words(sys::virDomainGetName(domain)),
            &*opaque.cast::<Tell>().cast_const(),
        )
    };
    tell(Event { name, kind, detail });
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let kind = EventKind::from_libvirt(event);
    // SAFETY: libvirt's call.
    unsafe { tell(domain, opaque, kind, detail_of(kind, detail).to_owned()) };
    0
}

unsafe extern "C" fn on_io_error(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    path: *const c_char,
    _alias: *const c_char,
    _action: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's call; both strings live during it.
    unsafe {
        let text = format!("{} {}", words(path), words(reason));
        tell(domain, opaque, EventKind::IoError, text.trim().to_owned());
    }
}

unsafe extern "C" fn on_close(_connect: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    let why = match reason.cast_unsigned() {
        sys::VIR_CONNECT_CLOSE_REASON_EOF => "libvirtd has ended",
        sys::VIR_CONNECT_CLOSE_REASON_KEEPALIVE => "libvirtd does not answer",
        _ => "the connection to libvirtd is broken",
    };
    // SAFETY: libvirt's call; it is what was registered.
    let ended = unsafe { &*opaque.cast::<Ended>().cast_const() };
    ended(why);
}

unsafe extern "C" fn free_tell(opaque: *mut c_void) {
    // SAFETY: libvirt gives back once what it was given.
    drop(unsafe { Box::from_raw(opaque.cast::<Tell>()) });
}

unsafe extern "C" fn free_ended(opaque: *mut c_void) {
    // SAFETY: libvirt gives back once what it was given.
    drop(unsafe { Box::from_raw(opaque.cast::<Ended>()) });
}

/// The details that say more than the event (virDomainEvent…DetailType).
const fn detail_of(kind: EventKind, detail: c_int) -> &'static str {
    match (kind, detail) {
        (EventKind::Started, 1) => "migrated here",
        (EventKind::Suspended, 1) => "for a migration",
        (EventKind::Suspended, 2) => "on an I/O error",
        (EventKind::Suspended, 3) => "by its watchdog",
        (EventKind::Resumed, 1) => "after a migration",
        (EventKind::Stopped, 0) => "shut down",
        (EventKind::Stopped, 1) => "destroyed",
        (EventKind::Stopped, 2) => "crashed",
        (EventKind::Stopped, 3) => "migrated away",
        (EventKind::Stopped, 5) => "failed",
        (EventKind::Crashed, 0) => "panicked",
        _ => "",
    }
}
