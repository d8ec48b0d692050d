//! Replays what the BPF tests kept (`HEARTLINE_BPF_DUMP`, tests/bpf/README.md): the host's build of the programs must do
//! what the kernel did. Built with `-Cinstrument-coverage` it shows which branches those tests reach.

use std::{env, fs::File, io::BufRead as _, io::BufReader, process::ExitCode};

use agent_common::{cell::Cell64, keys::Keys, siphash::Key, state::Shared};
use heartline_ebpf_host::{Maps, Node};

const WORDS: usize = size_of::<Shared>() / 8;

fn number(text: &str) -> u64 {
    u64::from_str_radix(text, 16).expect("a number")
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|c| number(std::str::from_utf8(c).expect("hex")) as u8)
        .collect()
}

fn list(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let inner = text.trim_matches(['[', ']']);
    inner.split(',').filter_map(|pair| pair.split_once('='))
}

/// A map's keys and values.
fn map<const N: usize>(text: &str) -> Vec<([u8; N], u32)> {
    list(text)
        .map(|(k, v)| {
            let key = bytes(k).try_into().expect("a key of the map");
            (key, v.parse().expect("a number"))
        })
        .collect()
}

fn keys(text: &str) -> Keys {
    let words: Vec<u64> = text.split(',').map(number).collect();
    let [a, b, c, d] = words[..] else {
        panic!("not two keys: {text}")
    };
    Keys::new(Key(a, b), (c | d != 0).then_some(Key(c, d)))
}

fn main() -> ExitCode {
    let path = env::args_os().nth(1).expect("usage: replay FILE");
    let (mut runs, mut differ) = (0, 0);
    for line in BufReader::new(File::open(path).expect("the dump")).lines() {
        let line = line.expect("text");
        let Ok(fields) = <[&str; 9]>::try_from(line.split(' ').collect::<Vec<_>>()) else {
            panic!("not a line of a dump: {line}");
        };
        let [program, now, both, vips, vmacs, links, table, frame, retval] = fields;
        let node = Node::new(Maps {
            keys: keys(both),
            vips: map(vips),
            vmacs: map(vmacs),
            links: map(links),
        });
        // SAFETY: Shared is made of Cell64 alone.
        let cells = unsafe { &*(node.table() as *const Shared as *const [Cell64; WORDS]) };
        for (i, w) in list(table) {
            cells[i.parse::<usize>().expect("a place")].store(number(w));
        }
        let mut frame = bytes(frame);
        let now = now.parse().expect("ns");
        let got = match program {
            "x" => node.xdp(&mut frame, 1, now),
            _ => node.egress(&mut frame, now) as u32,
        };
        runs += 1;
        if u64::from(got) != number(retval) {
            differ += 1;
            println!("here {got:x}: {line}");
        }
    }
    println!("{runs} runs, {differ} differ");
    if differ == 0 && runs > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
