//! Following `drbdsetup events2`: what changes is known at once, and handlers that the kernel calls are seen.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::sleep,
};

use super::events::{Book, LINE, News};

/// Before it is tried again after it has ended.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows all resources for as long as it is polled; what it starts ends with it. `tell` is called with each piece of
/// news, and how things are by then. After an end of the stream all is told anew.
pub async fn follow(argv: &[&str], mut tell: impl FnMut(&Book, News)) -> std::convert::Infallible {
    loop {
        let (program, arguments) = argv
            .split_first()
            .unwrap_or((&"drbdsetup", &["events2"][..]));
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .kill_on_drop(true);
        if let Ok(mut child) = command.spawn() {
            if let Some(out) = child.stdout.take() {
                read(out, &mut tell).await;
            }
            let _ = child.kill().await;
        }
        sleep(AGAIN).await;
    }
}

/// Until it ends. A line that is too long is left out.
async fn read(mut from: impl AsyncRead + Unpin, tell: &mut impl FnMut(&Book, News)) {
    let mut book = Book::default();
    let mut line: Vec<u8> = Vec::with_capacity(LINE);
    let mut chunk = [0u8; 4096];
    while let Ok(n) = from.read(&mut chunk).await {
        if n == 0 {
            return;
        }
        for byte in chunk.get(..n).unwrap_or_default() {
            if *byte != b'\n' {
                // One more than is taken: so it is refused, not shortened.
                if line.len() <= LINE {
                    line.push(*byte);
                }
                continue;
            }
            if let Some(news) = book.apply(&line) {
                let lost = news == News::Skipped;
                tell(&book, news);
                if lost {
                    // What was lost is not said again: begin anew.
                    return;
                }
            }
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_of_a_stream_that_ends_and_talks_too_much() {
        let long = "x".repeat(3 * LINE);
        let text = format!(
            "exists resource name:r0 role:Secondary\n{long} name:r1\nexists -\nchange resource name:r0 role:Primary\n- skipped 2\nchange resource name:r0 role:Secondary\n"
        );
        let mut seen = Vec::new();
        read(text.as_bytes(), &mut |book: &Book, news| {
            let role = book.resources.get("r0").map(|r| r.role.name());
            seen.push((news, role, book.strange));
        })
        .await;
        let changed = || News::Changed("r0".into());
        assert_eq!(
            seen,
            [
                (changed(), Some("Secondary"), 0),
                (News::Complete, Some("Secondary"), 1),
                (changed(), Some("Primary"), 1),
                (News::Skipped, Some("Primary"), 1),
            ]
        );
    }

    #[tokio::test]
    async fn a_program_is_followed_and_ended() {
        let script =
            "echo 'exists -'; echo 'call helper name:r0 helper:fence-peer'; exec sleep 1000";
        let (send, mut news) = tokio::sync::mpsc::channel(64);
        let argv = ["sh", "-c", script];
        tokio::select! {
            never = follow(&argv, |_, n| { let _ = send.try_send(n); }) => match never {},
            () = async { while news.recv().await != Some(News::Call { name: "r0".into(), helper: "fence-peer".into() }) {} } => {}
        }
    }
}
