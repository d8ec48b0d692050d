//! Sending JSON to a URL, for hooks.

use std::{path::Path, time::Duration};

use crate::probe::{Http, Kind, On, Probe, Trust, Verdict};

/// Posts; any status from 200 to 299 is good. `ca`: whose certificates are taken, a PEM file; else those that the machine
/// trusts.
///
/// # Errors
/// What went wrong, for people; never the URL, which may be a secret.
pub async fn json(
    url: &str,
    body: Vec<u8>,
    timeout: Duration,
    ca: Option<&Path>,
) -> Result<(), String> {
    let mut http = Http::new(url);
    http.method = "POST".into();
    http.send = Some(("application/json".into(), body));
    http.status = vec![200..=299];
    if let Some(ca) = ca {
        http.trust = Trust::File(ca.to_owned());
    }
    let probe = Probe {
        name: "post".into(),
        kind: Kind::Http(http),
        interval: timeout.max(crate::probe::MIN_INTERVAL),
        timeout,
        rise: 1,
        fall: 1,
        on: On::Owner,
    };
    match probe.run().await {
        Verdict::Good(_) => Ok(()),
        Verdict::Bad(why) | Verdict::Unknown(why) => Err(why),
    }
}
