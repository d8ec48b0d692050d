//! Tries the DRBD resource against a real kernel, in a guest:
//! `drbd NAME status|check|promote|demote|outdate|keep|discard|keep-alone|generations [stopped|gone] [newest|behind] [dual]`.
//!
//! Prints what came of it in one line, `DRBD-OK …` or `DRBD-ERROR …`, and how long it took.

use std::{env, process::ExitCode, time::Duration};

use agent_services::resource::{
    Kind, Resource,
    drbd::{Given, Others, Replica, ask, judge, outdate, resolve},
};
use tokio::time::Instant;

const WITHIN: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let (Some(name), Some(verb)) = (args.first(), args.get(1)) else {
        eprintln!(
            "usage: drbd NAME status|check|promote|demote|outdate|keep|discard|keep-alone|generations [stopped|gone] [newest|behind] [dual]"
        );
        return ExitCode::from(2);
    };
    let has = |word: &str| args.iter().any(|a| a == word);
    let given = Given {
        others: match (has("gone"), has("stopped")) {
            (true, _) => Others::Gone,
            (false, true) => Others::Stopped,
            (false, false) => Others::Unknown,
        },
        replica: match (has("newest"), has("behind")) {
            (_, true) => Replica::Behind,
            (true, false) => Replica::Newest,
            (false, false) => Replica::Unknown,
        },
    };
    let resource = Resource {
        name: format!("test.{name}"),
        kind: Kind::Drbd {
            resource: name.clone(),
            dual_primary: has("dual"),
        },
        start_timeout: WITHIN,
        stop_timeout: WITHIN,
        status_timeout: WITHIN,
        status_interval: WITHIN,
        keep_running: false,
        stateful: true,
    };
    let begun = Instant::now();
    let resolved = |part| async move {
        resolve::run(name, part, WITHIN)
            .await
            .map(|done| done.join("; "))
            .map_err(|e| e.to_string())
    };
    let done: Result<String, String> = match verb.as_str() {
        "status" => ask(name, WITHIN).await.map(|s| match s {
            Some(s) => format!("{} | {:?}", s.sentence(), judge(&s)),
            None => "not up".into(),
        }),
        "check" => Ok(resource.check().await.join("\n    ")),
        "promote" => resource
            .start_given(given)
            .await
            .map(|()| "promoted".into())
            .map_err(|e| format!("{e:?}")),
        "demote" => resource
            .stop()
            .await
            .map(|()| "demoted".into())
            .map_err(|e| format!("{e:?}")),
        "outdate" => outdate(name, WITHIN)
            .await
            .map(|()| "outdated".into())
            .map_err(|e| format!("{e:?}")),
        "keep" => resolved(resolve::Part::Keep).await,
        "discard" => resolved(resolve::Part::Discard).await,
        "keep-alone" => resolved(resolve::Part::KeepAlone).await,
        "generations" => resolve::generations(name, WITHIN).await.map(|all| {
            all.iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(" / ")
        }),
        other => Err(format!("what is {other}?")),
    };
    let took = begun.elapsed().as_millis();
    // What goes on in the background (a connection that is tried again) ends with this program.
    tokio::time::sleep(Duration::from_secs(2)).await;
    match done {
        Ok(text) => {
            println!("DRBD-OK {took} ms: {text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            println!("DRBD-ERROR {took} ms: {text}");
            ExitCode::FAILURE
        }
    }
}
