//! What goes with a group besides its VIPs: routes, rules, and the targets by which a node judges its network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use super::address::link_address;
use super::check::check_device;
use super::raw::{At, RawConfig, RawGroup};
use super::render::{Diagnostic, Span};
use super::table::Table;
use super::types::{Prefix, Route, Rule, Track, show_ns};

/// Routes, rules and targets that a group may have, each.
const MAX_EACH: usize = 256;
/// Bounds of the time between two questions to a target.
const INTERVAL_NS: std::ops::RangeInclusive<u64> = 100_000_000..=60_000_000_000;

/// A section that was read; `value` is `None` if something in it is wrong, and was reported.
#[derive(Debug)]
pub(super) struct Raw<T> {
    pub span: Span,
    pub value: Option<T>,
    pub devices: Vec<At<String>>,
}

/// The extras of one group.
#[derive(Debug, Default)]
pub(super) struct RawExtras {
    pub routes: Vec<Raw<Route>>,
    pub rules: Vec<Raw<Rule>>,
    pub tracks: Vec<Raw<Track>>,
}

/// Reads the sections of one group.
pub(super) fn read(group: &mut Table<'_, '_, '_>) -> RawExtras {
    RawExtras {
        routes: sections(group, "route", "[[group.route]]", route),
        rules: sections(group, "rule", "[[group.rule]]", rule),
        tracks: sections(group, "track", "[[group.track]]", track),
    }
}

/// Reads one of them, and the device that it names.
type Reader<T> = fn(&mut Table<'_, '_, '_>) -> (Option<T>, Option<At<String>>);

fn sections<T>(
    group: &mut Table<'_, '_, '_>,
    key: &'static str,
    place: &'static str,
    read: Reader<T>,
) -> Vec<Raw<T>> {
    let tables = group.tables(key, place);
    if let Some((_, span)) = tables.get(MAX_EACH) {
        let message = format!("{} sections {place}: {MAX_EACH} is the most", tables.len());
        group.out.push(
            Diagnostic::error("too-many-extras", span.clone(), message).help("split the group"),
        );
    }
    let mut list = Vec::new();
    for table in tables.into_iter().take(MAX_EACH) {
        let span = table.1.clone();
        let mut table = group.child(table, place);
        let (value, device) = read(&mut table);
        if let Some(device) = &device {
            check_device(device, table.out);
        }
        table.finish();
        list.push(Raw {
            span,
            value,
            devices: device.into_iter().collect(),
        });
    }
    list
}

fn route(t: &mut Table<'_, '_, '_>) -> (Option<Route>, Option<At<String>>) {
    t.need("destination", "destination = \"default\"");
    let destination = t.string("destination", "destination = \"198.51.100.0/24\"");
    let via = address(t, "via", "via = \"192.0.2.1\"");
    let src = address(t, "src", "src = \"192.0.2.100\"");
    let device = t.string("device", "device = \"eth0\"");
    let table = table_number(t);
    let metric = t.integer("metric", 1..=i64::from(u32::MAX), "bad-metric");
    let given = via.value.as_ref().or(src.value.as_ref());
    let mut destination = destination.and_then(|text| match (text.value.as_str(), given) {
        ("default", Some(other)) => Some(At {
            value: Prefix::everything(other.value.is_ipv6()),
            span: text.span,
        }),
        // What is given and cannot be read has been told already.
        ("default", None) if !via.absent || !src.absent => None,
        ("default", None) => {
            let help = "write \"0.0.0.0/0\" or \"::/0\", or add `via`";
            refuse(t, "route-family", &text.span, "IPv4 or IPv6?".into(), help);
            None
        }
        _ => prefix(t, &text),
    });
    for other in [&via.value, &src.value].into_iter().flatten() {
        if let Some(to) = &destination
            && to.value.address.is_ipv4() != other.value.is_ipv4()
        {
            let message = format!("{} and {} are of two families", to.value, other.value);
            let help = "a route is of one family: write one for each";
            refuse(t, "route-family", &other.span, message, help);
            destination = None;
        }
    }
    if via.absent && device.is_none() && t.table.get("device").is_none() {
        let span = t.span.clone();
        let message = "a route needs `via` or `device`".into();
        let help = "add `via = \"192.0.2.1\"`, the next router, or the `device` that it leads to";
        refuse(t, "route-nowhere", &span, message, help);
        destination = None;
    }
    let good = via.good() && src.good() && table.is_some();
    let value = destination.filter(|_| good).map(|to| Route {
        destination: to.value,
        via: via.value.map(|a| a.value),
        device: device.as_ref().map(|d| d.value.clone()),
        src: src.value.map(|a| a.value),
        table: table.unwrap_or(Route::MAIN),
        metric: metric.and_then(|m| u32::try_from(m.value).ok()),
    });
    (value, device)
}

fn rule(t: &mut Table<'_, '_, '_>) -> (Option<Rule>, Option<At<String>>) {
    t.need("table", "table = 100");
    t.need("priority", "priority = 1000");
    let from = t.string("from", "from = \"192.0.2.0/24\"");
    let to = t.string("to", "to = \"198.51.100.0/24\"");
    let table = table_number(t);
    // 0 is the kernel's table "local", 32766 and 32767 its "main" and "default".
    let priority = t.integer("priority", 1..=32765, "bad-priority");
    if from.is_none() && to.is_none() && !["from", "to"].iter().any(|k| t.table.contains_key(*k)) {
        let span = t.span.clone();
        let message = "a rule needs `from` or `to`".into();
        let help = "a rule for everything would change all traffic of the node: say which";
        refuse(t, "rule-for-all", &span, message, help);
        return (None, None);
    }
    let (some_from, some_to) = (from.is_some(), to.is_some());
    let from = from.and_then(|text| prefix(t, &text));
    let to = to.and_then(|text| prefix(t, &text));
    if let (Some(from), Some(to)) = (&from, &to)
        && from.value.address.is_ipv4() != to.value.address.is_ipv4()
    {
        let message = format!("{} and {} are of two families", from.value, to.value);
        let help = "a rule is of one family: write one for each";
        refuse(t, "rule-family", &to.span, message, help);
        return (None, None);
    }
    if some_from != from.is_some() || some_to != to.is_some() {
        return (None, None);
    }
    let value = (|| {
        Some(Rule {
            from: from.map(|p| p.value),
            to: to.map(|p| p.value),
            table: table?,
            priority: u32::try_from(priority?.value).ok()?,
        })
    })();
    (value, None)
}

fn track(t: &mut Table<'_, '_, '_>) -> (Option<Track>, Option<At<String>>) {
    t.need("ping", "ping = \"192.0.2.254\"");
    t.need("device", "device = \"eth0\"");
    let ping = address(t, "ping", "ping = \"192.0.2.254\"");
    let device = t.string("device", "device = \"eth0\"");
    let interval = t.duration("interval", "1s");
    let fall = t.integer("fall", 1..=100, "bad-threshold");
    let rise = t.integer("rise", 1..=100, "bad-threshold");
    if let Some(at) = interval
        .as_ref()
        .filter(|at| !INTERVAL_NS.contains(&at.value))
    {
        let (low, high) = (show_ns(*INTERVAL_NS.start()), show_ns(*INTERVAL_NS.end()));
        let message = format!("interval {} is outside {low} to {high}", show_ns(at.value));
        refuse(
            t,
            "bad-interval",
            &at.span,
            message,
            "the default is \"1s\"",
        );
        return (None, device);
    }
    let count = |n: Option<At<i64>>, default| match n {
        None => default,
        Some(n) => u32::try_from(n.value).unwrap_or(default),
    };
    let value = (|| {
        Some(Track {
            ping: ping.value?.value,
            device: device.as_ref()?.value.clone(),
            interval_ns: interval.map_or(1_000_000_000, |at| at.value),
            fall: count(fall, 3),
            rise: count(rise, 2),
        })
    })();
    (value, device)
}

/// An address that may be missing; one that is wrong was reported.
struct Optional {
    absent: bool,
    value: Option<At<IpAddr>>,
}

impl Optional {
    fn good(&self) -> bool {
        self.absent || self.value.is_some()
    }
}

fn address(t: &mut Table<'_, '_, '_>, key: &'static str, example: &str) -> Optional {
    let absent = !t.table.contains_key(key);
    let text = t.string(key, example);
    Optional {
        absent,
        // A router is as often as not known by its link-local address; what is asked and answers goes with a device.
        value: text.and_then(|text| match text.value.parse::<Ipv6Addr>() {
            Ok(a) if a.is_unicast_link_local() && key != "src" => Some(At {
                value: a.into(),
                span: text.span,
            }),
            _ => link_address(&text, t.out),
        }),
    }
}

/// 1 to 4294967295 but 255, which is the kernel's; `None` if it is wrong.
fn table_number(t: &mut Table<'_, '_, '_>) -> Option<u32> {
    if !t.table.contains_key("table") {
        return Some(Route::MAIN);
    }
    let at = t.integer("table", 1..=i64::from(u32::MAX), "bad-table")?;
    if at.value == 255 {
        let help = "table 254 is \"main\"; 1 to 252 are free, and all above 255";
        let message = "table 255 is the kernel's own (\"local\")".into();
        refuse(t, "bad-table", &at.span, message, help);
        return None;
    }
    u32::try_from(at.value).ok()
}

fn prefix(t: &mut Table<'_, '_, '_>, text: &At<String>) -> Option<At<Prefix>> {
    let (address, length) = match text.value.split_once('/') {
        Some((a, l)) => (a, Some(l)),
        None => (text.value.as_str(), None),
    };
    let bad = |t: &mut Table<'_, '_, '_>, why: &str, help: &str| {
        let message = format!("{:?} {why}", text.value);
        refuse(t, "bad-prefix", &text.span, message, help);
        None
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return bad(t, "is no network", "write it as in \"198.51.100.0/24\"");
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length.map(str::parse::<u8>) {
        None => longest,
        Some(Ok(length)) if length <= longest => length,
        Some(_) => {
            return bad(
                t,
                &format!("has no good prefix length: 0 to {longest}"),
                "write it as in \"198.51.100.0/24\"",
            );
        }
    };
    let value = Prefix { address, length };
    if value.network() != value {
        let help = format!("the network is {}", value.network());
        return bad(t, "has bits set behind its prefix", &help);
    }
    Some(At {
        value,
        span: text.span.clone(),
    })
}

fn refuse(t: &mut Table<'_, '_, '_>, code: &'static str, span: &Span, message: String, help: &str) {
    t.out
        .push(Diagnostic::error(code, span.clone(), message).help(help));
}

/// Rules about gateways and extras that only the whole file shows.
pub(super) fn check_extras(raw: &RawConfig, out: &mut Vec<Diagnostic>) {
    let mut routes = HashMap::new();
    let mut rules = HashMap::new();
    for group in &raw.groups {
        check_gateways(group, out);
        for route in &group.extras.routes {
            let Some(value) = &route.value else { continue };
            let key = (value.destination, value.table, value.metric);
            let text = "two routes lead to one destination in one table with one metric";
            twice(routes.insert(key, &route.span), &route.span, text, out);
        }
        for rule in &group.extras.rules {
            let Some(value) = &rule.value else { continue };
            twice(
                rules.insert(value, &rule.span),
                &rule.span,
                "this rule is there twice",
                out,
            );
        }
        for track in &group.extras.tracks {
            let Some(value) = &track.value else { continue };
            let vips = raw.groups.iter().flat_map(|g| &g.vips);
            if vips
                .filter_map(|v| v.address.as_ref())
                .any(|a| a.value.0 == value.ping)
            {
                let message = format!("{} is a VIP: it is wherever its owner is", value.ping);
                out.push(
                    Diagnostic::error("ping-is-vip", track.span.clone(), message)
                        .help("ask something beyond the cluster: the next router, as a rule"),
                );
            }
        }
    }
}

fn twice(before: Option<&Span>, span: &Span, text: &str, out: &mut Vec<Diagnostic>) {
    if let Some(first) = before {
        out.push(
            Diagnostic::error("extra-twice", span.clone(), text)
                .also(first.clone(), "first written here")
                .help("remove one, or give them different metrics or priorities"),
        );
    }
}

fn check_gateways(group: &RawGroup, out: &mut Vec<Diagnostic>) {
    for vip in group.vips.iter().filter(|v| v.gateway) {
        let Some(At {
            value: (address, prefix),
            span,
        }) = &vip.address
        else {
            continue;
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if *prefix != longest {
            out.push(
                Diagnostic::error(
                    "gateway-prefix",
                    span.clone(),
                    "a gateway VIP has no prefix length: the network's route stays with the node's own address",
                )
                .help(format!("write `address = \"{address}\"`")),
            );
        }
    }
}

/// The extras as the configuration holds them; `None` if one is missing.
pub(super) fn typed<T: Clone>(list: &[Raw<T>]) -> Option<Vec<T>> {
    list.iter().map(|raw| raw.value.clone()).collect()
}
