//! `[[group.probe]]`: how a service is asked whether it is any good.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use agent_services::probe::{
    Ask, Dns, Exec, Expect, Http, Icmp, Kind, On, Pattern, Probe, Radius, Sip, Systemd, Tcp, Trust,
    Want,
};

use super::raw::At;
use super::render::Diagnostic;
use super::services::{bounded, filled, one_of};
use super::table::Table;

const MS: u64 = 1_000_000;
/// Bounds of the time between two questions.
const INTERVAL_NS: RangeInclusive<u64> = 50 * MS..=3_600_000 * MS;
/// Bounds of the time that an answer may take.
const TIMEOUT_NS: RangeInclusive<u64> = MS..=3_600_000 * MS;

/// The kinds of probes: the key says which one it is.
const KINDS: [&str; 8] = [
    "tcp", "http", "dns", "icmp", "radius", "sip", "systemd", "exec",
];

/// A probe and where it stands; `None` is "wrong, and reported".
pub(super) type RawProbe = Option<At<Probe>>;

/// One table being read.
type T<'a, 't, 'i, 'd> = &'a mut Table<'t, 'i, 'd>;

/// Reads one section.
pub(super) fn probe(t: T<'_, '_, '_, '_>) -> RawProbe {
    let span = t.span.clone();
    let name = filled(t, "name", "name = \"answers\"");
    let kind = match one_of(t, &KINDS, "probe") {
        Some("tcp") => tcp(t),
        Some("http") => http(t),
        Some("dns") => dns(t),
        Some("icmp") => icmp(t),
        Some("radius") => radius(t),
        Some("sip") => sip(t),
        Some("systemd") => filled(t, "systemd", "systemd = \"unbound.service\"").map(|name| {
            let unit = super::services::unit_name(name);
            Kind::Systemd(Systemd { unit })
        }),
        Some("exec") => exec(t),
        _ => None,
    };
    for key in KINDS {
        t.known(key);
    }
    let interval = bounded(t, "interval", "1s", &INTERVAL_NS, Duration::from_secs(1));
    let timeout = bounded(t, "timeout", "1s", &TIMEOUT_NS, Duration::from_secs(1));
    let rise = count(t, "rise", 1);
    let fall = count(t, "fall", 3);
    let on = t.choice("on", &[("owner", On::Owner), ("all", On::All)]);
    let on = match on {
        Some(at) => Some(at.value),
        None => (!t.table.contains_key("on")).then_some(On::Owner),
    };
    let value = Probe {
        name: name?,
        kind: kind?,
        interval: interval?,
        timeout: timeout?,
        rise: rise?,
        fall: fall?,
        on: on?,
    };
    if let Some(flaw) = value.flaw() {
        t.out.push(
            Diagnostic::error("bad-probe", span, format!("probe {}: {flaw}", value.name))
                .help("see the probes in config/heartline.toml"),
        );
        return None;
    }
    Some(At { value, span })
}

/// 1 to 1000, or the default; `None` if it is wrong.
fn count(t: T<'_, '_, '_, '_>, key: &'static str, default: u32) -> Option<u32> {
    let there = t.table.contains_key(key);
    let read = t.integer(key, 1..=1000, "bad-threshold");
    match read {
        Some(n) => u32::try_from(n.value).ok(),
        None => (!there).then_some(default),
    }
}

/// A kind that is given by its main value alone, or by a table that has more.
fn part<'t, 'i, 's>(
    t: &'s mut Table<'t, 'i, '_>,
    key: &'static str,
    example: &'static str,
) -> Option<Result<At<String>, Table<'t, 'i, 's>>> {
    let is_text = t
        .table
        .get(key)
        .is_some_and(|v| v.get_ref().as_str().is_some());
    if is_text {
        return t.string(key, example).map(Ok);
    }
    t.table(key, example).map(Err)
}

/// Reads a value that has a text form.
fn parsed<V: FromStr>(
    t: T<'_, '_, '_, '_>,
    text: &At<String>,
    what: &str,
    example: &str,
) -> Option<V> {
    let read = text.value.parse().ok();
    if read.is_none() {
        t.out.push(
            Diagnostic::error(
                "bad-address",
                text.span.clone(),
                format!("{:?} is no {what}", text.value),
            )
            .help(format!("write it as in {example:?}")),
        );
    }
    read
}

fn socket(t: T<'_, '_, '_, '_>, key: &'static str, example: &str) -> Option<SocketAddr> {
    let line = format!("{key} = {example:?}");
    t.need(key, &line);
    let text = t.string(key, &line)?;
    parsed(t, &text, "address with a port", example)
}

/// A pattern that may be missing: `expect` is text, `regex` an expression. `None` if it is wrong.
fn pattern(t: T<'_, '_, '_, '_>) -> Option<Option<Pattern>> {
    let text = t.string("expect", "expect = \"OK\"");
    let regex = t.string("regex", "regex = \"^OK\"");
    let (at, built) = match (text, regex) {
        (None, None) => return Some(None),
        (Some(text), None) => {
            let built = Pattern::text(&text.value);
            (text, built)
        }
        (None, Some(regex)) => {
            let built = Pattern::regex(&regex.value);
            (regex, built)
        }
        (Some(_), Some(regex)) => {
            t.out.push(
                Diagnostic::error("two-patterns", regex.span, "`expect` and `regex` at once")
                    .help("`expect` is text as it is, `regex` an expression: choose one"),
            );
            return None;
        }
    };
    match built {
        Ok(pattern) => Some(Some(pattern)),
        Err(e) => {
            t.out.push(
                Diagnostic::error(
                    "bad-pattern",
                    at.span,
                    format!("{:?} cannot be looked for: {e}", at.value),
                )
                .help("the syntax is that of Rust's regex crate"),
            );
            None
        }
    }
}

/// "200-299", "204": codes that are good.
fn codes(
    t: T<'_, '_, '_, '_>,
    key: &'static str,
    default: Vec<RangeInclusive<u16>>,
) -> Option<Vec<RangeInclusive<u16>>> {
    let example = format!("{key} = [\"200-299\", \"401\"]");
    let Some(list) = t.strings(key, &example) else {
        return (!t.table.contains_key(key)).then_some(default);
    };
    let mut all = Some(Vec::new());
    for at in list.value {
        let (low, high) = at.value.split_once('-').unwrap_or((&at.value, &at.value));
        match (low.trim().parse::<u16>(), high.trim().parse::<u16>()) {
            (Ok(low), Ok(high)) if (100..=999).contains(&low) && low <= high && high <= 999 => {
                if let Some(all) = &mut all {
                    all.push(low..=high);
                }
            }
            _ => {
                all = None;
                t.out.push(
                    Diagnostic::error(
                        "bad-code",
                        at.span,
                        format!("{:?} is no status code and no range of them", at.value),
                    )
                    .help(format!("write it as `{example}`")),
                );
            }
        }
    }
    all
}

fn tcp(t: T<'_, '_, '_, '_>) -> Option<Kind> {
    const EXAMPLE: &str = "127.0.0.1:25";
    match part(t, "tcp", "tcp = \"127.0.0.1:25\"")? {
        Ok(text) => Some(Kind::Tcp(Tcp {
            address: parsed(t, &text, "address with a port", EXAMPLE)?,
            send: Vec::new(),
            expect: None,
        })),
        Err(mut k) => {
            let address = socket(&mut k, "address", EXAMPLE);
            let send = k
                .string("send", "send = \"QUIT\\r\\n\"")
                .map_or_else(Vec::new, |s| s.value.into_bytes());
            let expect = pattern(&mut k);
            k.finish();
            Some(Kind::Tcp(Tcp {
                address: address?,
                send,
                expect: expect?,
            }))
        }
    }
}

fn http(t: T<'_, '_, '_, '_>) -> Option<Kind> {
    let mut k = match part(t, "http", "http = \"http://127.0.0.1/\"")? {
        Ok(text) => return Some(Kind::Http(Http::new(&text.value))),
        Err(k) => k,
    };
    let url = filled(&mut k, "url", "url = \"https://192.0.2.100/health\"");
    let mut http = Http::new(url.as_deref().unwrap_or_default());
    if let Some(method) = k.string("method", "method = \"HEAD\"") {
        http.method = method.value;
    }
    let status = codes(&mut k, "status", http.status.clone());
    let header =
        k.string("header", "header = \"Server: nginx\"")
            .map(|h| match h.value.split_once(':') {
                Some((name, value)) if !value.trim().is_empty() => {
                    (name.trim().to_owned(), Pattern::text(value.trim()).ok())
                }
                _ => (h.value.trim_end_matches(':').trim().to_owned(), None),
            });
    let body = pattern(&mut k);
    let host = k
        .string("host", "host = \"www.example.org\"")
        .map(|h| h.value);
    let sni = k
        .string("sni", "sni = \"www.example.org\"")
        .map(|h| h.value);
    let ca = k.string("ca", "ca = \"/etc/ssl/own-ca.pem\"");
    let verify = k.boolean("verify");
    let connect = if k.table.contains_key("connect") {
        socket(&mut k, "connect", "127.0.0.1:443").map(Some)
    } else {
        k.known("connect");
        Some(None)
    };
    let redirects = k.integer("redirects", 0..=10, "bad-redirects");
    k.finish();
    http.trust = match (ca, verify) {
        (_, Some(false)) => Trust::Anybody,
        (Some(file), _) => Trust::File(PathBuf::from(file.value)),
        (None, _) => Trust::System,
    };
    url?;
    http.status = status?;
    http.header = header;
    http.body = body?;
    (http.host, http.sni) = (host, sni);
    http.connect = connect?;
    http.redirects = redirects
        .and_then(|n| u8::try_from(n.value).ok())
        .unwrap_or(http.redirects);
    Some(Kind::Http(http))
}

fn dns(t: T<'_, '_, '_, '_>) -> Option<Kind> {
    let mut k = t.table(
        "dns",
        "dns = { server = \"127.0.0.1:53\", name = \"www.example.org\" }",
    )?;
    let server = socket(&mut k, "server", "127.0.0.1:53");
    let name = filled(&mut k, "name", "name = \"www.example.org\"");
    let rtype = k
        .string("type", "type = \"A\"")
        .map_or_else(|| "A".to_owned(), |r| r.value);
    let answers = k.strings("answers", "answers = [\"192.0.2.80\"]");
    let answers = answers.map_or_else(Vec::new, |l| {
        l.value.into_iter().map(|at| at.value).collect()
    });
    let expect = k
        .choice("match", &[("any", Expect::Any), ("all", Expect::All)])
        .map_or(Expect::Any, |e| e.value);
    let tcp = k.boolean("tcp").unwrap_or(false);
    k.finish();
    let mut dns = Dns::new(server?, &name?, &rtype);
    (dns.answers, dns.expect, dns.tcp) = (answers, expect, tcp);
    Some(Kind::Dns(dns))
}

fn icmp(t: T<'_, '_, '_, '_>) -> Option<Kind> {
    const EXAMPLE: &str = "192.0.2.254";
    match part(t, "icmp", "icmp = \"192.0.2.254\"")? {
        Ok(text) => {
            let address: IpAddr = parsed(t, &text, "address", EXAMPLE)?;
            Some(Kind::Icmp(Icmp {
                address,
                device: None,
            }))
        }
        Err(mut k) => {
            k.need("address", "address = \"192.0.2.254\"");
            let text = k.string("address", "address = \"192.0.2.254\"");
            let address = text.and_then(|text| parsed(&mut k, &text, "address", EXAMPLE));
            let device = k.string("device", "device = \"eth0\"").map(|d| d.value);
            k.finish();
            Some(Kind::Icmp(Icmp {
                address: address?,
                device,
            }))
        }
    }
}

fn radius(t: T<'_, '_, '_, '_>) -> Option<Kind> {
    let mut k = t.table(
        "radius",
        "radius = { server = \"127.0.0.1:1812\", secret_file = \"/etc/heartline/radius.secret\" }",
    )?;
    let server = socket(&mut k, "server", "127.0.0.1:1812");
    let secret = filled(
        &mut k,
        "secret_file",
        "secret_file = \"/etc/heartline/radius.secret\"",
    );
    let user = k.string("user", "user = \"probe\"");
    let password = k.string(
        "password_file",
        "password_file = \"/etc/heartline/radius.password\"",
    );
    let wants = [
        ("accept", Want::Accept),
        ("reject", Want::Reject),
        ("any", Want::Any),
    ];
    let want = k.choice("want", &wants).map_or(Want::Accept, |w| w.value);
    let ask = match (user, password) {
        (None, None) => Some(Ask::Status),
        (Some(user), Some(file)) => Some(Ask::Access {
            user: user.value,
            password: file.value.into(),
        }),
        (user, _) => {
            let missing = if user.is_some() {
                "password_file"
            } else {
                "user"
            };
            let span = k.span.clone();
            k.out.push(
                Diagnostic::error("missing-key", span, format!("an Access-Request needs `{missing}`, too"))
                    .help("give `user` and `password_file`, or neither: then a Status-Server request is sent (RFC 5997)"),
            );
            None
        }
    };
    k.finish();
    Some(Kind::Radius(Radius {
        server: server?,
        secret: secret?.into(),
        ask: ask?,
        want,
    }))
}

fn sip(t: T<'_, '_, '_, '_>) -> Option<Kind> {
    const EXAMPLE: &str = "127.0.0.1:5060";
    match part(t, "sip", "sip = \"127.0.0.1:5060\"")? {
        Ok(text) => {
            let server: SocketAddr = parsed(t, &text, "address with a port", EXAMPLE)?;
            Some(Kind::Sip(Sip::new(server)))
        }
        Err(mut k) => {
            let server = socket(&mut k, "server", EXAMPLE);
            let uri = k.string("uri", "uri = \"sip:example.org\"");
            let status = codes(&mut k, "status", Vec::new());
            let tcp = k.boolean("tcp").unwrap_or(false);
            k.finish();
            let mut sip = Sip::new(server?);
            if let Some(uri) = uri {
                sip.uri = uri.value;
            }
            (sip.status, sip.tcp) = (status?, tcp);
            Some(Kind::Sip(sip))
        }
    }
}

fn exec(t: T<'_, '_, '_, '_>) -> Option<Kind> {
    let argv = super::services::argv(t, "exec");
    let warning = t.boolean("warning_is_good");
    let mut exec = Exec::new(&argv?);
    if let Some(warning) = warning {
        exec.warning_is_good = warning;
    }
    Some(Kind::Exec(exec))
}
