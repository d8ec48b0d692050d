//! How far a job of a domain is. (`Domain::get_job_stats` of virt 0.4 makes a vector of a null pointer where there is no job.)

use std::{
    ffi::{CStr, c_int},
    ptr::null_mut,
    slice,
};

use agent_virt_proto::job::Progress;
use virt::{domain::Domain, error::Error, sys};

/// What libvirt says of the job under way, or (`completed`) of the last one; `None`: there is none.
pub fn read(domain: &Domain, completed: bool) -> Result<Option<Progress>, Error> {
    let (mut kind, mut count): (c_int, c_int) = (0, 0);
    let mut list: sys::virTypedParameterPtr = null_mut();
    let flags = if completed {
        sys::VIR_DOMAIN_JOB_STATS_COMPLETED
    } else {
        0
    };
    // SAFETY: the domain lives; the other pointers are to locals, which libvirt fills.
    let done = unsafe {
        sys::virDomainGetJobStats(
            domain.as_ptr(),
            &raw mut kind,
            &raw mut list,
            &raw mut count,
            flags,
        )
    };
    if done < 0 {
        return Err(Error::last_error());
    }
    let mut progress = Progress::default();
    let mut page = 4096;
    let mut dirty_pages = 0;
    if let (false, Ok(length)) = (list.is_null(), usize::try_from(count)) {
        // SAFETY: libvirt has made a list of so many.
        for one in unsafe { slice::from_raw_parts(list, length) } {
            let Some(value) = number(one) else { continue };
            // SAFETY: the name ends with a zero within its array (virTypedParameter).
            let name = unsafe { CStr::from_ptr(one.field.as_ptr()) };
            match name.to_bytes() {
                b"time_elapsed" => progress.elapsed_ms = value,
                b"data_total" => progress.total = value,
                b"data_processed" => progress.done = value,
                b"data_remaining" => progress.left = value,
                b"memory_bps" => progress.rate = value,
                b"memory_dirty_rate" => dirty_pages = value,
                b"memory_page_size" => page = value,
                b"memory_iteration" => progress.rounds = value,
                b"downtime" => progress.downtime_ms = Some(value),
                b"auto_converge_throttle" => {
                    progress.throttle = u32::try_from(value).unwrap_or_default();
                }
                _ => {}
            }
        }
        // SAFETY: it is libvirt's own list, given back once.
        unsafe { sys::virTypedParamsFree(list, count) };
    }
    progress.dirty = dirty_pages.saturating_mul(page);
    let there = kind.cast_unsigned() != sys::VIR_DOMAIN_JOB_NONE;
    Ok(there.then_some(progress))
}

fn number(one: &sys::virTypedParameter) -> Option<u64> {
    // SAFETY: the type says which field of the union is set.
    unsafe {
        match one.type_.cast_unsigned() {
            sys::VIR_TYPED_PARAM_INT => u64::try_from(one.value.i).ok(),
            sys::VIR_TYPED_PARAM_UINT => Some(u64::from(one.value.ui)),
            sys::VIR_TYPED_PARAM_LLONG => u64::try_from(one.value.l).ok(),
            sys::VIR_TYPED_PARAM_ULLONG => Some(one.value.ul),
            _ => None,
        }
    }
}
