//! Carries out the steps of a plan, saying each one and why. Asks nothing.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo, ebpf,
    run::{self, Failed},
    toolchain::{self, Facts, Need, Offer, Plan, Step},
    ui,
};

/// Downloads on a slow line included.
const INSTALL: Duration = Duration::from_secs(20 * 60);

/// How long apt waits for another apt to let go.
const APT_LOCK_SECONDS: u32 = 120;

/// A plan has a handful of steps; more rounds than this mean that it does not get on.
const MOST_ROUNDS: usize = 12;

/// What the person allows.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// May things be installed?
    pub install: bool,
}

/// Makes sure that what a task needs is there. Quick when it is.
pub fn ensure(need: Need, policy: Policy) -> Result<()> {
    let mut facts = Facts::gather();
    let mut plan = toolchain::plan(&facts, need);
    if plan.is_empty() {
        return Ok(());
    }
    remove_stale_policy();
    let mut offer = Offer::Unknown;
    let mut updated = false;
    let mut last: Option<Step> = None;
    for _ in 0..MOST_ROUNDS {
        if updated {
            plan.steps.retain(|step| *step != Step::AptUpdate);
        }
        refuse(&plan, &facts, policy)?;
        let Some(step) = plan.steps.first().cloned() else {
            ui::say("all that is needed is here");
            return Ok(());
        };
        if last.as_ref() == Some(&step) {
            bail!(
                "\"{}\" went well, but what it should bring is still not here; cargo xtask doctor shows more",
                step.by_hand(facts.root)
            );
        }
        if last.is_none() {
            ui::say("some of what this needs is missing; installing it");
        }
        carry_out(&step)?;
        if step == Step::AptUpdate {
            updated = true;
            offer = debian_offer();
        }
        last = Some(step);
        facts = Facts {
            offer,
            ..Facts::gather()
        };
        plan = toolchain::plan(&facts, need);
    }
    bail!("the installation does not get on; cargo xtask doctor shows what is missing");
}

/// Stops where we cannot or may not go on, with the exact commands.
fn refuse(plan: &Plan, facts: &Facts, policy: Policy) -> Result<()> {
    if !plan.problems.is_empty() {
        for problem in &plan.problems {
            ui::bad(&problem.what);
            ui::mend(&problem.mend);
        }
        bail!("something is missing that cannot be installed from here; what to do is above");
    }
    let as_root = !facts.root && plan.steps.iter().any(Step::needs_root);
    if plan.steps.is_empty() || (policy.install && !as_root) {
        return Ok(());
    }
    let reason = if policy.install {
        "only root can install some of it"
    } else {
        "--no-install forbids to install it"
    };
    let mut text = format!("something is missing, and {reason}. By hand:");
    for step in &plan.steps {
        text.push_str("\n  ");
        text.push_str(&step.by_hand(facts.root));
    }
    bail!(text)
}

fn carry_out(step: &Step) -> Result<()> {
    ui::say(&step.describe());
    let what = step.brief();
    match step {
        Step::AptUpdate => {
            // A mirror that does not answer need not be one that is needed: the installation will tell.
            let updated = run::logged(
                &what,
                apt().arg("update"),
                &cargo::log("apt-update"),
                INSTALL,
            );
            match updated {
                Err(error)
                    if error.downcast_ref::<Failed>().is_some() && run::caught().is_none() =>
                {
                    ui::note(&format!("{error}\n  {}; going on", advice_for(&error)));
                    Ok(())
                }
                other => other,
            }
        }
        Step::Apt { packages, .. } => {
            let services: Vec<_> = SERVICES
                .into_iter()
                .filter(|(package, _)| packages.iter().any(|name| name == package))
                .collect();
            let no_start = (!services.is_empty()).then(NoServices::begin).transpose()?;
            let result = run::logged(
                &what,
                apt()
                    .args(["install", "-y", "--no-install-recommends", "--no-remove"])
                    .args(packages),
                &cargo::log("apt-install"),
                INSTALL,
            );
            if let Some(no_start) = no_start {
                no_start.end();
                if result.is_ok() {
                    services.iter().for_each(|(_, service)| disable(service));
                }
            }
            advised(result)
        }
        Step::LinkDebian => short(
            &what,
            Command::new("rustup").args(["toolchain", "link", ebpf::LINKED, "/usr"]),
            "rustup-link",
        ),
        Step::Components {
            toolchain,
            components,
        } => {
            let mut command = Command::new("rustup");
            command.args(["component", "add"]).args(components);
            if let Some(name) = toolchain {
                command.args(["--toolchain", name]);
            }
            short(&what, &mut command, "rustup-component")
        }
        Step::Nightly => short(
            &what,
            Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ]),
            "rustup-nightly",
        ),
        Step::BuildLinker { llvm } => {
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = [toolchain::llvm_bin(*llvm)]
                .into_iter()
                .chain(env::split_paths(&path));
            let path = env::join_paths(folders).context("PATH")?;
            let mut command = cargo::cargo();
            command
                .args(toolchain::linker_arguments(*llvm))
                .env("PATH", path);
            short(&what, &mut command, "bpf-linker")
        }
        Step::FetchLinker => short(
            &what,
            cargo::cargo().args([
                "binstall",
                "--no-confirm",
                &format!("bpf-linker@{}", toolchain::LINKER_VERSION),
            ]),
            "bpf-linker",
        ),
    }
}

fn short(what: &str, command: &mut Command, log: &str) -> Result<()> {
    advised(run::logged(what, command, &cargo::log(log), INSTALL))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", &format!("DPkg::Lock::Timeout={APT_LOCK_SECONDS}")])
        .args(["-o", "Dpkg::Options::=--force-confold"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        // Ubuntu's needrestart would restart services, and ask.
        .env("NEEDRESTART_SUSPEND", "1")
        .env("LC_ALL", "C.UTF-8");
    command
}

/// Do the lists, now new, have Debian's compiler, and is it new enough? (Debian 12 without its security archive has
/// an older one.)
fn debian_offer() -> Offer {
    let mut command = Command::new("apt-cache");
    command
        .args(["policy", "rustc-web"])
        .env("LC_ALL", "C.UTF-8");
    match run::ask(&mut command) {
        Ok(text) if offers(&text) => Offer::Yes,
        Ok(_) => Offer::No,
        Err(_) => Offer::Unknown,
    }
}

fn offers(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .any(|version| ebpf::number(version) >= ebpf::number(toolchain::OLDEST))
}

/// Adds what the person can do about a failure.
fn advised(result: Result<()>) -> Result<()> {
    result.map_err(|error| {
        let advice = advice_for(&error);
        if advice.is_empty() {
            error
        } else {
            anyhow::anyhow!("{error:#}\n  {advice}")
        }
    })
}

fn advice_for(error: &anyhow::Error) -> &'static str {
    error
        .downcast_ref::<Failed>()
        .map_or("", |failed| advice(&failed.tail))
}

/// What the end of a log means.
fn advice(tail: &str) -> &'static str {
    const KNOWN: &[(&[&str], &str)] = &[
        (
            &[
                "Could not get lock",
                "Unable to acquire the dpkg frontend lock",
                "Unable to lock",
            ],
            "another apt or dpkg is at work and did not end within two minutes: wait for it, then run this again",
        ),
        (
            &["dpkg was interrupted"],
            "an earlier installation was cut off: run `dpkg --configure -a`, then this again",
        ),
        (
            &[
                "Temporary failure resolving",
                "Could not resolve",
                "Could not connect",
                "Failed to fetch",
                "could not download",
                "download of",
                "failed to download",
                "Network is unreachable",
            ],
            "the network or the mirror does not answer: check the connection (and proxy), then run this again",
        ),
        (
            &["Unable to locate package", "has no installation candidate"],
            "apt does not know the package: the build needs Debian 12 with its security archive, \
             or a rustup nightly with rust-src and a bpf-linker",
        ),
        (
            &["Packages need to be removed but remove is disabled"],
            "a package installed here is in the way (see the log), and nothing is removed unasked: remove it, \
             or use a rustup nightly with rust-src and a bpf-linker",
        ),
        (&["No space left on device"], "the disk is full"),
        (
            &["Permission denied"],
            "a file may not be written: run this as root, or give the folder to this user",
        ),
    ];
    KNOWN
        .iter()
        .find(|(signs, _)| signs.iter().any(|sign| tail.contains(sign)))
        .map_or("", |(_, advice)| advice)
}

/// Packages that bring a service, and its name: the lab and the tests run these programs themselves.
const SERVICES: [(&str, &str); 12] = [
    ("nginx-light", "nginx"),
    ("keepalived", "keepalived"),
    ("unbound", "unbound"),
    ("freeradius", "freeradius"),
    ("kamailio", "kamailio"),
    ("apache2", "apache2"),
    ("tgt", "tgt"),
    ("open-iscsi", "open-iscsi"),
    ("open-iscsi", "iscsid"),
    // Of cluster-glue, which comes with it.
    ("resource-agents", "logd"),
    ("libvirt-daemon-system", "libvirtd"),
    ("libvirt-daemon-system", "libvirt-guests"),
];

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# Put here by Heartline's xtask while it installs packages, so that none of \
                           them starts a service.\nexit 101\n";

/// While this lives, installed packages start no services (Debian's policy-rc.d).
struct NoServices {
    /// The file that is ours to remove.
    ours: Option<PathBuf>,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = Path::new(POLICY);
        if path.exists() {
            // Somebody else's, as in containers: fine if it forbids what we want forbidden.
            let mut command = Command::new(path);
            command.args(["nginx", "start"]);
            let forbids = run::exit_code(&mut command)? == Some(101);
            if !forbids {
                bail!(
                    "{POLICY} lets packages start services, and this must not start any: install nginx-light \
                     (for the bench keepalived, for the tests unbound, freeradius and kamailio, too) by hand, stop \
                     and disable them, then run this again"
                );
            }
            return Ok(Self { ours: None });
        }
        fs::write(path, POLICY_TEXT).with_context(|| format!("cannot write {POLICY}"))?;
        let guard = Self {
            ours: Some(path.to_owned()),
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {POLICY} executable"))?;
        Ok(guard)
    }

    /// Ends it here rather than at some end of scope.
    fn end(self) {}
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.ours
            && let Err(error) = fs::remove_file(path)
        {
            ui::bad(&format!(
                "cannot remove {}: {error}; do it by hand",
                path.display()
            ));
        }
    }
}

/// An earlier run may have been killed before it could.
fn remove_stale_policy() {
    if fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT) {
        let _ = fs::remove_file(POLICY);
    }
}

/// The lab runs it itself; the system's own must not come up at the next boot because we installed it.
fn disable(service: &str) {
    let mut command = Command::new("update-rc.d");
    command.args([service, "disable"]);
    match run::ask(&mut command) {
        Ok(_) => ui::note(&format!(
            "{service} was not started and stays disabled: the lab runs its own"
        )),
        Err(error) => ui::note(&format!(
            "{service} was not started, but may start at the next boot ({error:#}): systemctl disable {service}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_failures_get_advice() {
        let lock =
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1 (apt)";
        assert!(advice(lock).contains("another apt"));
        let offline = "W: Failed to fetch http://deb.debian.org/x  Temporary failure resolving 'deb.debian.org'";
        assert!(advice(offline).contains("network"));
        assert!(advice("E: Unable to locate package rustc-web").contains("Debian 12"));
        let remove = "E: Packages need to be removed but remove is disabled.";
        assert!(advice(remove).contains("in the way"));
        assert_eq!(advice("error[E0308]: mismatched types"), "");
    }

    #[test]
    fn an_offer_is_a_candidate_that_is_new_enough() {
        let policy = |version| {
            format!("rustc-web:\n  Installed: (none)\n  Candidate: {version}\n  Version table:\n")
        };
        assert!(offers(&policy("1.96.0+dfsg1-1~deb12u2")));
        assert!(!offers(&policy("1.85.0+dfsg3-1~deb12u3")));
        assert!(!offers(&policy("(none)")));
        assert!(!offers(""));
    }
}
