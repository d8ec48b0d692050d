//! TLS by rustls: whom to trust, and the handshake.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::bound::{No, Stage, from_disk, read_file};

/// A file of certificates is not longer.
const CA_FILE: usize = 4 * 1024 * 1024;
/// After this the system's certificates are read anew.
const SYSTEM_AGE: Duration = Duration::from_secs(3600);

/// Whose certificates are taken for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Of all whom this machine trusts (`/etc/ssl/certs`).
    #[default]
    System,
    /// Of those in this PEM file only. It is read for each question, so that a new one needs no reload.
    File(PathBuf),
    /// Anybody's, for any name, expired or not.
    Anybody,
}

/// Makes the connection a TLS one.
pub(super) async fn handshake(
    stage: &Stage,
    trust: &Trust,
    name: &str,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, No> {
    let server = ServerName::try_from(name.to_owned())
        .map_err(|_| No::unknown(format!("{name:?} is no name for TLS")))?;
    let config = config(stage, trust).await?;
    stage.say(format!("connected, waiting for TLS with {name}"));
    TlsConnector::from(config)
        .connect(server, stream)
        .await
        .map_err(|e| No::io(&format!("TLS with {name}"), &e))
}

async fn config(stage: &Stage, trust: &Trust) -> Result<Arc<ClientConfig>, No> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| No::unknown(format!("TLS: {e}")))?;
    let roots = match trust {
        Trust::System => system(stage).await?,
        Trust::File(path) => {
            let path = path.clone();
            from_disk(stage, "the CA file", move || file(&path)).await??
        }
        Trust::Anybody => {
            let config = builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth();
            return Ok(Arc::new(config));
        }
    };
    Ok(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ))
}

fn file(path: &Path) -> Result<Arc<RootCertStore>, No> {
    let no = |e: &dyn std::fmt::Display| No::unknown(format!("CA file {}: {e}", path.display()));
    let bytes = read_file(path, CA_FILE).map_err(|e| no(&e))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        roots
            .add(certificate.map_err(|e| no(&e))?)
            .map_err(|e| no(&e))?;
    }
    if roots.is_empty() {
        return Err(no(&"has no certificate in PEM form"));
    }
    Ok(Arc::new(roots))
}

/// Some hundred files: read at times, not for each question.
async fn system(stage: &Stage) -> Result<Arc<RootCertStore>, No> {
    static READ: Mutex<Option<(Instant, Arc<RootCertStore>)>> = Mutex::new(None);
    let held = READ.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((when, roots)) = held
        && when.elapsed() < SYSTEM_AGE
    {
        return Ok(roots);
    }
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        match (roots.is_empty(), found.errors.first()) {
            (true, Some(e)) => Err(No::unknown(format!("this machine's certificates: {e}"))),
            (true, None) => Err(No::unknown(
                "this machine trusts no certificate authority: install the package ca-certificates, or name a CA file",
            )),
            (false, _) => Ok(Arc::new(roots)),
        }
    };
    let roots = from_disk(stage, "this machine's certificates", read).await??;
    *READ.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), roots.clone()));
    Ok(roots)
}

/// Takes any certificate. The handshake's signature is still looked at: the other side has the key of what it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
