//! A command with the exit codes of a Nagios plugin
//! (<https://nagios-plugins.org/doc/guidelines.html>, "Plugin Output" and "Plugin Return Codes").

use super::{
    MAX_TIMEOUT,
    bound::{No, Stage, Yes, clean},
};
use crate::command::{Ended, Run};

/// Good: it ends with 0, or with 1 (a warning) if that may be. 2 is bad; anything else tells nothing about the service.
/// Not to end in time is bad: plugins wait for the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Program and arguments; the program is looked for in `PATH` if it has no slash. Anybody on the machine can see
    /// them, so no secret belongs here.
    pub argv: Vec<String>,
    /// A warning is good enough.
    pub warning_is_good: bool,
}

impl Exec {
    /// This command; a warning is good enough.
    #[must_use]
    pub fn new(argv: &[String]) -> Exec {
        Exec {
            argv: argv.to_vec(),
            warning_is_good: true,
        }
    }

    pub(super) fn flaw(&self) -> Option<String> {
        match self.argv.first() {
            None => Some("no command".to_owned()),
            Some(program) if program.is_empty() => Some("the command has no name".to_owned()),
            Some(_) if self.argv.iter().any(|a| a.contains('\0')) => {
                Some("a zero byte in the command".to_owned())
            }
            Some(_) => None,
        }
    }

    pub(super) async fn ask(&self, stage: &Stage) -> Result<Yes, No> {
        if let Some(why) = self.flaw() {
            return Err(No::unknown(why));
        }
        stage.say(format!(
            "{} did not end",
            self.argv.first().map_or("", |p| p)
        ));
        // The deadline is that of the probe: when this is dropped, the command is killed with all that it started.
        let ended = Run::new(&self.argv, MAX_TIMEOUT * 2).output().await;
        self.judge(&ended.map_err(|e| No::unknown(e.to_string()))?)
    }

    fn judge(&self, ended: &Ended) -> Result<Yes, No> {
        let (mut text, performance) = output(&ended.stdout);
        if text.is_empty() {
            text = clean(
                String::from_utf8_lossy(&ended.stderr)
                    .lines()
                    .find(|l| !l.trim().is_empty())
                    .unwrap_or(""),
            );
        }
        if text.is_empty() {
            text = format!("no output, {}", ended.how());
        }
        match ended.status.code() {
            Some(0) => Ok(Yes { text, performance }),
            Some(1) if self.warning_is_good => Ok(Yes { text, performance }),
            Some(1 | 2) => Err(No::Bad(text)),
            Some(3) => Err(No::Unknown(text)),
            Some(_) | None => Err(No::Unknown(clean(&format!("{}: {text}", ended.how())))),
        }
    }
}

/// So much performance data is kept, in characters.
const PERFORMANCE: usize = 4096;

/// First line, and performance data: what follows the first `|` of the first line, and all that follows the first `|`
/// of the lines below it.
fn output(stdout: &[u8]) -> (String, String) {
    let all = String::from_utf8_lossy(stdout);
    let all = all.trim_start_matches(['\r', '\n']);
    let (first, rest) = all.split_once('\n').unwrap_or((all, ""));
    let (text, data) = first.split_once('|').unwrap_or((first, ""));
    let more = rest.split_once('|').map_or("", |(_, more)| more);
    let mut performance = String::new();
    for word in data.split_whitespace().chain(more.split_whitespace()) {
        if performance.len() + word.len() >= PERFORMANCE {
            break;
        }
        if !performance.is_empty() {
            performance.push(' ');
        }
        performance.extend(word.chars().filter(|c| !c.is_control()));
    }
    (clean(text), performance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both(text: &str) -> (String, String) {
        output(text.as_bytes())
    }

    #[test]
    fn what_the_guidelines_show() {
        let (text, data) =
            both("PING ok - Packet loss = 0%, RTA = 0.80 ms | percent_packet_loss=0, rta=0.80\n");
        assert_eq!(text, "PING ok - Packet loss = 0%, RTA = 0.80 ms");
        assert_eq!(data, "percent_packet_loss=0, rta=0.80");
        let long = "DISK OK - free space: / 3326 MB (56%); | /=2643MB;5948;5958;0;5968\n\
                    / 15272 MB (77%);\n/boot 68 MB (69%); | /boot=68MB;88;93;0;98\n/home=69357MB;253404;253409;0;253414\n";
        let (text, data) = both(long);
        assert_eq!(text, "DISK OK - free space: / 3326 MB (56%);");
        assert_eq!(
            data,
            "/=2643MB;5948;5958;0;5968 /boot=68MB;88;93;0;98 /home=69357MB;253404;253409;0;253414"
        );
        assert_eq!(both(""), (String::new(), String::new()));
        assert_eq!(both("\n\nlate"), ("late".into(), String::new()));
        assert_eq!(both("|"), (String::new(), String::new()));
    }

    proptest! {
        #[test]
        fn any_output_is_borne(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let (text, data) = output(&bytes);
            prop_assert!(!text.chars().chain(data.chars()).any(char::is_control));
            prop_assert!(data.len() <= PERFORMANCE && text.chars().count() <= 300);
        }

        #[test]
        fn what_stands_where_is_found(text in "[a-zA-Z0-9:%=]{1,40}", data in "[a-z]{1,9}=[0-9]{1,5}(ms|%)?;;;0", long in "[a-z\n]{0,40}") {
            let (t, d) = output(format!("{text} | {data}\n{long} | {data}").as_bytes());
            prop_assert_eq!(t, text);
            prop_assert_eq!(d, format!("{data} {data}"));
        }
    }
}
