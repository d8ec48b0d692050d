//! Hooks by HTTPS: a server of rustls with a certificate of its own CA, that takes, fails, is slow, or hangs.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use agent_services::post;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    http::certificate,
    rig::{GENEROUS, alone, folder, tcp},
};

/// What the server was sent, whole requests.
type Heard = Arc<Mutex<Vec<String>>>;

fn acceptor(dir: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(dir.join("hook.pem")).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(dir.join("hook.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Answers by the path that is asked for.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, heard: Heard) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let text = loop {
        let Ok(n @ 1..) = stream.read(&mut buffer).await else {
            return;
        };
        request.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|l| {
            let (name, value) = l.split_once(':')?;
            let named = name.eq_ignore_ascii_case("content-length");
            named.then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            break text;
        }
    };
    heard.lock().unwrap().push(text.clone());
    let path = text.split(' ').nth(1).unwrap_or_default();
    if path == "/hang" {
        tokio::time::sleep(GENEROUS).await;
    }
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let status = if path == "/fail" {
        "500 No Pager"
    } else {
        "204 Taken"
    };
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn server(dir: &Path) -> (SocketAddr, Heard) {
    certificate(dir, "hook", &["127.0.0.1"], |_| ());
    certificate(dir, "stranger", &["127.0.0.1"], |_| ());
    let (heard, acceptor) = (Heard::default(), acceptor(dir));
    let told = Arc::clone(&heard);
    let address = tcp(move |stream| serve(stream, acceptor.clone(), Arc::clone(&told))).await;
    (address, heard)
}

#[test]
fn hooks_by_https() {
    alone(|| async {
        let dir = folder();
        let (address, heard) = server(dir.path()).await;
        let (own, stranger) = (
            dir.path().join("hook-ca.pem"),
            dir.path().join("stranger-ca.pem"),
        );
        let event = br#"{"kind":"gained","group":"web"}"#.to_vec();
        let tell = async |path: &str, ca: Option<&Path>, most: Duration| {
            let url = format!("https://{address}{path}");
            post::json(&url, event.clone(), most, ca).await
        };
        let heard_of = |path: &str| {
            let heard = heard.lock().unwrap();
            heard
                .iter()
                .filter(|r| r.starts_with(&format!("POST {path} ")))
                .count()
        };

        assert_eq!(tell("/hook", Some(&own), GENEROUS).await, Ok(()));
        let request = heard.lock().unwrap()[0].to_lowercase();
        assert!(request.starts_with("post /hook http/1.1\r\n"), "{request}");
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
        assert!(
            request.ends_with(r#"{"kind":"gained","group":"web"}"#),
            "{request}"
        );
        assert_eq!(tell("/slow", Some(&own), GENEROUS).await, Ok(()));

        let why = tell("/fail", Some(&own), GENEROUS).await.unwrap_err();
        assert!(why.contains("status 500"), "{why}");

        // Neither somebody else's CA nor those of the machine: it is told nothing.
        for ca in [Some(stranger.as_path()), None] {
            let why = tell("/secret", ca, GENEROUS).await.unwrap_err();
            assert!(
                why.contains("TLS") && !why.contains("/secret"),
                "{ca:?}: {why}"
            );
        }
        assert_eq!(heard_of("/secret"), 0);
        let why = tell("/secret", Some(&dir.path().join("none.pem")), GENEROUS).await;
        assert!(why.unwrap_err().contains("none.pem"));

        // It takes the event and never answers; it takes the connection and says nothing; it is not there.
        let silent = tcp(|stream| async move {
            tokio::time::sleep(GENEROUS).await;
            drop(stream);
        })
        .await;
        for url in [
            format!("https://{address}/hang"),
            format!("https://{silent}/"),
        ] {
            let begun = Instant::now();
            let short = Duration::from_millis(400);
            let why = post::json(&url, event.clone(), short, Some(&own)).await;
            assert!(why.is_err(), "{url}");
            assert!(
                begun.elapsed() >= short && begun.elapsed() < GENEROUS / 2,
                "{url}: {:?}",
                begun.elapsed()
            );
        }
    });
}
