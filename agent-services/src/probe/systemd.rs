//! What systemd says of a unit.

use super::bound::{No, Stage, Yes};
use crate::resource::{State, systemd};

/// Good: the unit is active. A unit on its way up or down, or a systemd that cannot be asked, tells nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Systemd {
    /// Its name, with suffix.
    pub unit: String,
}

impl Systemd {
    pub(super) fn flaw(&self) -> Option<String> {
        let whole = |(name, suffix): (&str, &str)| !name.is_empty() && !suffix.is_empty();
        let named =
            self.unit.rsplit_once('.').is_some_and(whole) && !self.unit.contains(['/', '\0', '\n']);
        (!named).then(|| format!("{:?} is no unit, as nginx.service is", self.unit))
    }

    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        stage.ours(format!("asking systemd for unit {}", self.unit));
        match systemd::status(&self.unit).await {
            State::Running => Ok(Yes::new("active")),
            State::Stopped => Err(No::bad(format!("unit {} does not run", self.unit))),
            State::Failed(why) => Err(No::bad(format!("unit {}: {why}", self.unit))),
            State::Unknown(why) => Err(No::unknown(format!("unit {}: {why}", self.unit))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flaws_are_told() {
        let flaw = |unit: &str| Systemd { unit: unit.into() }.flaw();
        assert_eq!(
            (flaw("nginx.service"), flaw("getty@tty1.service")),
            (None, None)
        );
        assert!(
            flaw("nginx").is_some() && flaw(".service").is_some() && flaw("a/b.service").is_some()
        );
    }
}
