//! What a host says of itself and of a domain that may come.

use std::{
    ffi::{CStr, CString, c_char, c_int},
    ptr::{null, null_mut},
};

use agent_virt_proto::{
    definition::Definition,
    preflight::{Cpu, Host, Other},
    state::Life,
};
use roxmltree::Document;
use virt::{
    connect::Connect,
    domain::Domain,
    error::{Error, ErrorNumber},
    network::Network,
    sys,
};

use crate::act;

/// So many domains of a host are asked for their hardware addresses.
const DOMAINS: usize = 1000;

/// Asks.
///
/// # Errors
/// The daemon could not be asked at all; what it cannot say of one thing is left out.
pub fn ask(connect: &Connect, wanted: &Definition) -> Result<Host, Error> {
    let name = connect.get_hostname()?;
    let capabilities = connect.get_capabilities()?;
    let (uuid, machine) = capable(&capabilities, wanted);
    let same_name = act::find(connect, &wanted.name)
        .ok()
        .flatten()
        .and_then(|d| {
            let (state, reason) = d.get_state().ok()?;
            Some(Other {
                uuid: d.get_uuid_string().ok()?,
                life: Life::from_libvirt(i32::try_from(state).unwrap_or(-1), reason),
            })
        });
    Ok(Host {
        name,
        uuid,
        libvirt: connect.get_lib_version().map_or(0, u64::from),
        hypervisor: connect.get_hyp_version().map_or(0, u64::from),
        free_kib: free(connect),
        cpu: cpu(connect, wanted),
        machine,
        same_name,
        macs_taken: macs(connect, wanted),
        networks_missing: networks(connect, wanted),
    })
}

/// UUID of the machine, and whether it knows the machine type, from the capabilities.
fn capable(xml: &str, wanted: &Definition) -> (String, Option<bool>) {
    let Ok(document) = Document::parse(xml) else {
        return (String::new(), None);
    };
    let root = document.root_element();
    let named = |name: &'static str| root.descendants().filter(move |n| n.has_tag_name(name));
    let uuid = named("host").find_map(|h| {
        let uuid = h.children().find(|n| n.has_tag_name("uuid"))?;
        uuid.text().map(|t| t.trim().to_owned())
    });
    let machine = (!wanted.machine.is_empty()).then(|| {
        named("arch")
            .filter(|a| a.attribute("name") == Some(wanted.arch.as_str()))
            .flat_map(|a| a.descendants())
            .any(|n| {
                n.has_tag_name("machine")
                    && n.text().map(str::trim) == Some(wanted.machine.as_str())
            })
    });
    (uuid.unwrap_or_default(), machine)
}

/// Memory that can be had: free, or only cached.
fn free(connect: &Connect) -> Option<u64> {
    let mut count: c_int = 0;
    let all = sys::VIR_NODE_MEMORY_STATS_ALL_CELLS;
    // SAFETY: with no list, libvirt says only how long it would be.
    let asked =
        unsafe { sys::virNodeGetMemoryStats(connect.as_ptr(), all, null_mut(), &raw mut count, 0) };
    let length = usize::try_from(count)
        .ok()
        .filter(|n| asked == 0 && *n < 64)?;
    // SAFETY: all zero is a valid entry: an array of characters and a number.
    let mut list: Vec<sys::virNodeMemoryStats> = vec![unsafe { std::mem::zeroed() }; length];
    // SAFETY: the list has as many entries as it says.
    let asked = unsafe {
        sys::virNodeGetMemoryStats(connect.as_ptr(), all, list.as_mut_ptr(), &raw mut count, 0)
    };
    if asked != 0 {
        return None;
    }
    let counts = |one: &&sys::virNodeMemoryStats| {
        // SAFETY: a name ends with a zero within its array.
        let name = unsafe { CStr::from_ptr(one.field.as_ptr()) };
        matches!(name.to_bytes(), b"free" | b"buffers" | b"cached")
    };
    Some(list.iter().filter(counts).map(|one| one.value).sum())
}

/// Has QEMU there what the domain's processor has?
fn cpu(connect: &Connect, wanted: &Definition) -> Cpu {
    // Handed through as it is, or chosen there anew: nothing to compare.
    if wanted.cpu.is_empty() || wanted.cpu.contains("host-passthrough") {
        return Cpu::NotAsked;
    }
    let text = |s: &str| (!s.is_empty()).then(|| CString::new(s).ok()).flatten();
    let (emulator, arch, machine, kind, xml) = (
        text(&wanted.emulator),
        text(&wanted.arch),
        text(&wanted.machine),
        text(&wanted.kind),
        text(&wanted.cpu),
    );
    let pointer = |s: &Option<CString>| s.as_ref().map_or(null::<c_char>(), |s| s.as_ptr());
    // SAFETY: all strings live until the call has ended; null means libvirt's choice.
    let said = unsafe {
        sys::virConnectCompareHypervisorCPU(
            connect.as_ptr(),
            pointer(&emulator),
            pointer(&arch),
            pointer(&machine),
            pointer(&kind),
            pointer(&xml),
            sys::VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE,
        )
    };
    match said {
        sys::VIR_CPU_COMPARE_IDENTICAL | sys::VIR_CPU_COMPARE_SUPERSET => Cpu::Fits,
        sys::VIR_CPU_COMPARE_INCOMPATIBLE => Cpu::Lacks(String::new()),
        _ => {
            let error = Error::last_error();
            match error.code() {
                ErrorNumber::CpuIncompatible => Cpu::Lacks(error.message().to_owned()),
                // A driver or version that cannot say.
                _ => Cpu::NotAsked,
            }
        }
    }
}

/// Who has the domain's hardware addresses there?
fn macs(connect: &Connect, wanted: &Definition) -> Vec<(String, String)> {
    let own: Vec<&str> = wanted
        .nics
        .iter()
        .map(|n| n.mac.as_str())
        .filter(|mac| !mac.is_empty())
        .collect();
    if own.is_empty() {
        return Vec::new();
    }
    let domains: Vec<Domain> = connect
        .list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        .unwrap_or_default();
    let mut taken = Vec::new();
    for domain in domains.iter().take(DOMAINS) {
        let Ok(other) = domain
            .get_xml_desc(0)
            .map_err(|e| e.message().to_owned())
            .and_then(|xml| Definition::read(&xml))
        else {
            continue;
        };
        if other.name == wanted.name {
            continue;
        }
        let same = other
            .nics
            .into_iter()
            .filter(|n| own.contains(&n.mac.as_str()));
        taken.extend(same.map(|n| (n.mac, other.name.clone())));
    }
    taken
}

/// Networks of libvirt's own that it needs and that are not active there.
fn networks(connect: &Connect, wanted: &Definition) -> Vec<String> {
    let needed = wanted.nics.iter().filter(|n| n.kind == "network");
    let mut missing: Vec<String> = needed
        .map(|n| n.source.clone())
        .filter(|n| !n.is_empty() && !n.contains('\0'))
        .filter(|name| {
            let network = Network::lookup_by_name(connect, name);
            !network.is_ok_and(|n| n.is_active().unwrap_or(false))
        })
        .collect();
    missing.dedup();
    missing
}
