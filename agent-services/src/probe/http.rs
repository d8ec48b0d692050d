//! A request by HTTP/1.1 (RFC 9112), plain or inside TLS.

use std::{net::SocketAddr, ops::RangeInclusive};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Pattern, Trust,
    bound::{No, Stage, Yes, look_up},
    ranges, tcp, tls,
};

/// An answer's head may not be longer.
const HEAD: usize = 64 * 1024;
/// So much of a body is looked at; the rest is not even read.
const BODY: usize = 256 * 1024;
/// More addresses of one name are not tried.
const ADDRESSES: usize = 8;
const AGENT: &str = concat!("heartline/", env!("CARGO_PKG_VERSION"));

/// Good: the status is one of `status`, and what is asked for beyond that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// `http://` or `https://`, host, port if it is not the usual one, path and query.
    pub url: String,
    /// The method; with HEAD there is no body.
    pub method: String,
    /// Sent with the request: its media type and the bytes.
    pub send: Option<(String, Vec<u8>)>,
    /// Status codes that are good.
    pub status: Vec<RangeInclusive<u16>>,
    /// A header that must be there, and what it must contain.
    pub header: Option<(String, Option<Pattern>)>,
    /// What the first 256 KiB of the body must contain. Without this the body is not read.
    pub body: Option<Pattern>,
    /// Said as `Host` instead of the URL's.
    pub host: Option<String>,
    /// The name that TLS asks for (SNI), and that the certificate must be for, instead of `host` or the URL's.
    pub sni: Option<String>,
    /// Whose certificates are taken.
    pub trust: Trust,
    /// Where to connect to, whatever the URL's host is: a node asks itself, or the VIP. Without it a host that is no
    /// address is looked up each time, and a resolver that fails makes the verdict unknown.
    pub connect: Option<SocketAddr>,
    /// So many redirects are followed.
    pub redirects: u8,
}

impl Http {
    /// GET; 200 to 399 is good; no redirects.
    #[must_use]
    pub fn new(url: &str) -> Http {
        Http {
            url: url.to_owned(),
            method: "GET".to_owned(),
            send: None,
            status: vec![200..=399],
            header: None,
            body: None,
            host: None,
            sni: None,
            trust: Trust::System,
            connect: None,
            redirects: 0,
        }
    }

    pub(super) fn flaw(&self) -> Option<String> {
        if let Err(why) = Place::parse(&self.url) {
            return Some(why);
        }
        if self.method.parse::<Method>().is_err() || self.method == "CONNECT" {
            return Some(format!("{:?} is no method", self.method));
        }
        if self.status.is_empty() {
            return Some("no status would be good".to_owned());
        }
        if let Some((name, _)) = &self.header
            && name.parse::<HeaderName>().is_err()
        {
            return Some(format!("{name:?} is no header"));
        }
        if let Some(host) = &self.host
            && (HeaderValue::from_str(host).is_err() || host.is_empty())
        {
            return Some(format!("{host:?} is no host"));
        }
        if let Some(sni) = &self.sni
            && rustls::pki_types::ServerName::try_from(sni.as_str()).is_err()
        {
            return Some(format!("{sni:?} is no name for TLS"));
        }
        None
    }

    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        if let Some(why) = self.flaw() {
            return Err(No::unknown(why));
        }
        let first = Place::parse(&self.url).map_err(No::unknown)?;
        let mut place = first.clone();
        for left in (0..=self.redirects).rev() {
            // A redirect to the same host stays on the address that was given.
            let own = place.host == first.host;
            let address = self.connect.filter(|_| own).map(|mut address| {
                if place.port() != first.port() {
                    address.set_port(place.port());
                }
                address
            });
            match self.one(stage, &place, address, own, left > 0).await? {
                Found::Answer(yes) => return Ok(yes),
                Found::Redirect(to) => place = place.join(&to).map_err(No::bad)?,
            }
        }
        // With no redirect left, `one` takes a redirect for an answer.
        Err(No::bad("too many redirects"))
    }

    async fn one(
        &self,
        stage: &Stage,
        place: &Place,
        address: Option<SocketAddr>,
        own: bool,
        follow: bool,
    ) -> Result<Found, No> {
        let stream = match address {
            Some(address) => tcp::connect(stage, address).await?,
            None => connect(stage, place).await?,
        };
        if !place.https {
            return self.talk(stage, place, own, follow, stream).await;
        }
        let host = self.host.as_deref().filter(|_| own).map(without_port);
        let sni = self.sni.as_deref().filter(|_| own);
        let name = sni.or(host).unwrap_or(&place.host);
        let stream = tls::handshake(stage, &self.trust, name, stream).await?;
        self.talk(stage, place, own, follow, stream).await
    }

    async fn talk<S>(
        &self,
        stage: &Stage,
        place: &Place,
        own: bool,
        follow: bool,
        stream: S,
    ) -> Result<Found, No>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        stage.say("connected, but no answer");
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        let host = self
            .host
            .as_deref()
            .filter(|_| own)
            .unwrap_or(&place.authority);
        let request = Request::builder()
            .method(self.method.as_str())
            .uri(place.path.as_str())
            .header(header::HOST, host)
            .header(header::USER_AGENT, AGENT)
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .header(
                header::CONTENT_LENGTH,
                self.send.as_ref().map_or(0, |s| s.1.len()),
            )
            .header(
                header::CONTENT_TYPE,
                self.send.as_ref().map_or("text/plain", |s| s.0.as_str()),
            )
            .body(Full::new(Bytes::from(
                self.send.as_ref().map_or_else(Vec::new, |s| s.1.clone()),
            )))
            .map_err(|e| No::unknown(e.to_string()))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|e| failed(&e))?;
            self.judge(stage, follow, answer).await
        };
        tokio::pin!(exchange, connection);
        let mut open = true;
        loop {
            tokio::select! {
                found = &mut exchange => return found,
                // How it ended is told to the exchange, too.
                _ = &mut connection, if open => open = false,
            }
        }
    }

    async fn judge(
        &self,
        stage: &Stage,
        follow: bool,
        mut answer: Response<Incoming>,
    ) -> Result<Found, No> {
        let status = answer.status();
        if follow && is_redirect(status) {
            let to = answer
                .headers()
                .get(header::LOCATION)
                .and_then(|v| v.to_str().ok());
            return to
                .map(|to| Found::Redirect(to.to_owned()))
                .ok_or_else(|| No::bad(format!("status {status}, but no Location to go to")));
        }
        if !self.status.iter().any(|r| r.contains(&status.as_u16())) {
            let to = answer
                .headers()
                .get(header::LOCATION)
                .filter(|_| status.is_redirection());
            let to = to.map(|v| format!(" (to {})", String::from_utf8_lossy(v.as_bytes())));
            return Err(No::bad(format!(
                "status {status}{}, wanted {}",
                to.unwrap_or_default(),
                ranges(&self.status)
            )));
        }
        if let Some((name, wanted)) = &self.header {
            let mut found = answer.headers().get_all(name.as_str()).iter().peekable();
            if found.peek().is_none() {
                return Err(No::bad(format!("status {status}, but no header {name}")));
            }
            if let Some(wanted) = wanted
                && !found.any(|v| wanted.found_in(v.as_bytes()))
            {
                return Err(No::bad(format!(
                    "status {status}, but no {wanted} in header {name}"
                )));
            }
        }
        if let Some(wanted) = &self.body {
            let mut body = Vec::new();
            while body.len() < BODY {
                stage.say(format!(
                    "status {status}, then {} bytes of a body without end",
                    body.len()
                ));
                let Some(frame) = answer.body_mut().frame().await else {
                    break;
                };
                let frame =
                    frame.map_err(|e| No::bad(format!("status {status}, then {}", cause(&e))))?;
                body.extend_from_slice(frame.data_ref().map(|d| &**d).unwrap_or_default());
            }
            body.truncate(BODY);
            if !wanted.found_in(&body) {
                let of = if body.len() == BODY {
                    "the first "
                } else {
                    "its "
                };
                return Err(No::bad(format!(
                    "status {status}, but no {wanted} in {of}{} bytes",
                    body.len()
                )));
            }
        }
        Ok(Found::Answer(Yes::new(format!("status {status}"))))
    }
}

enum Found {
    Answer(Yes),
    Redirect(String),
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Tries the addresses of a host one after the other.
async fn connect(stage: &Stage, place: &Place) -> Result<tokio::net::TcpStream, No> {
    let port = place.port();
    if let Ok(ip) = place.host.parse() {
        return tcp::connect(stage, SocketAddr::new(ip, port)).await;
    }
    let mut last = No::unknown(format!("{} has no address", place.host));
    for address in look_up(stage, &place.host, port)
        .await?
        .into_iter()
        .take(ADDRESSES)
    {
        match tcp::connect(stage, address).await {
            Ok(stream) => return Ok(stream),
            Err(no) => last = no,
        }
    }
    Err(last)
}

fn failed(error: &hyper::Error) -> No {
    No::bad(format!("no good answer by HTTP: {}", cause(error)))
}

/// An error and what is behind it.
fn cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        text = format!("{text}: {e}");
        next = e.source();
    }
    text
}

fn without_port(host: &str) -> &str {
    if let Some(inner) = host.strip_prefix('[') {
        return inner.split(']').next().unwrap_or(inner);
    }
    host.split(':').next().unwrap_or(host)
}

/// A URL, taken apart.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    https: bool,
    /// As `Host` has it.
    authority: String,
    /// Without port and brackets.
    host: String,
    url_port: Option<u16>,
    /// With the query.
    path: String,
}

impl Place {
    fn parse(url: &str) -> Result<Place, String> {
        if url
            .split(['?', '#'])
            .next()
            .is_some_and(|u| u.contains('@'))
        {
            // Not shown: it may be a password.
            return Err(
                "a URL with @ is not taken (user and password would show in logs)".to_owned(),
            );
        }
        let uri: Uri = url.parse().map_err(|e| format!("{url:?} is no URL: {e}"))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(other) => return Err(format!("{url:?}: {other} is neither http nor https")),
            None => return Err(format!("{url:?} begins with neither http:// nor https://")),
        };
        let authority = uri.authority().ok_or(format!("{url:?} has no host"))?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("{url:?} has no host"));
        }
        Ok(Place {
            https,
            authority: authority.as_str().to_owned(),
            host: host.to_ascii_lowercase(),
            url_port: authority.port_u16(),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }

    fn port(&self) -> u16 {
        self.url_port.unwrap_or(if self.https { 443 } else { 80 })
    }

    /// Where a `Location` leads to from here (RFC 9110, 10.2.2). Dots in a relative path are left to the server.
    fn join(&self, to: &str) -> Result<Place, String> {
        let scheme = if self.https { "https" } else { "http" };
        let to = to.split('#').next().unwrap_or(to);
        let path = self.path.split('?').next().unwrap_or("/");
        let url = if to.contains("://") {
            to.to_owned()
        } else if to.starts_with("//") {
            format!("{scheme}:{to}")
        } else if to.starts_with('/') {
            format!("{scheme}://{}{to}", self.authority)
        } else if to.starts_with('?') {
            format!("{scheme}://{}{path}{to}", self.authority)
        } else {
            let folder = path
                .rfind('/')
                .and_then(|at| path.get(..=at))
                .unwrap_or("/");
            format!("{scheme}://{}{folder}{to}", self.authority)
        };
        Place::parse(&url).map_err(|e| format!("a redirect that leads nowhere: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let p = Place::parse("https://[2001:db8::1]:8443/a?b").unwrap();
        assert_eq!(
            (p.host.as_str(), p.port(), p.path.as_str()),
            ("2001:db8::1", 8443, "/a?b")
        );
        let p = Place::parse("http://Example.org").unwrap();
        assert_eq!(
            (p.host.as_str(), p.port(), p.path.as_str()),
            ("example.org", 80, "/")
        );
        for bad in [
            "",
            "/x",
            "ftp://a/",
            "http://",
            "http://u:p@a/",
            "http:///x",
            "http://a b/",
        ] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
        assert!(
            !Place::parse("http://u:geheim@a/")
                .unwrap_err()
                .contains("geheim")
        );
    }

    #[test]
    fn redirects() {
        let from = Place::parse("http://a:81/x/y?q").unwrap();
        let to = |to| {
            from.join(to)
                .map(|p| (p.https, p.authority + &p.path))
                .unwrap()
        };
        assert_eq!(to("https://b/#f"), (true, "b/".into()));
        assert_eq!(to("//b/c"), (false, "b/c".into()));
        assert_eq!(to("/c?d"), (false, "a:81/c?d".into()));
        assert_eq!(to("z"), (false, "a:81/x/z".into()));
        assert_eq!(to("?r"), (false, "a:81/x/y?r".into()));
        assert!(from.join("gopher://b/").is_err());
    }

    #[test]
    fn flaws_are_told() {
        let with = |change: fn(&mut Http)| {
            let mut http = Http::new("http://a/");
            change(&mut http);
            http.flaw()
        };
        assert_eq!(with(|_| ()), None);
        assert!(with(|h| h.method = "G T".into()).is_some());
        assert!(with(|h| h.status.clear()).is_some());
        assert!(with(|h| h.header = Some(("a b".into(), None))).is_some());
        assert!(with(|h| h.host = Some("a\r\nX: y".into())).is_some());
        assert!(with(|h| h.sni = Some("a b".into())).is_some());
        assert!(with(|h| h.url = "a".into()).is_some());
    }

    #[test]
    fn a_host_without_its_port() {
        assert_eq!(without_port("a.b:80"), "a.b");
        assert_eq!(without_port("[::1]:80"), "::1");
        assert_eq!(without_port("a"), "a");
    }
}
