//! Two hundred clients at once, several times over.

use std::{
    fs,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::Server;

const CLIENTS: usize = 200;
const ROUNDS: usize = 3;
const TOKENS: u64 = 8;

/// Bytes of the server in memory.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    1024 * kilobytes.parse::<u64>().unwrap()
}

/// How long each of the clients waits.
fn round(server: &Server, round: usize) -> Vec<Duration> {
    let waits = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let waits = &waits;
            scope.spawn(move || {
                let request = json!({
                    "prompt": format!("Round {round}: the code of lamp {client} is"),
                    "max_tokens": TOKENS,
                    "ignore_eos": true,
                });
                let started = Instant::now();
                let answer = server.json("/v1/completions", &request);
                waits.lock().unwrap().push(started.elapsed());
                assert_eq!(answer["usage"]["completion_tokens"], TOKENS, "{answer}");
            });
        }
    });
    waits.into_inner().unwrap()
}

#[test]
fn two_hundred_clients_are_answered_in_turn_and_memory_stays_flat() {
    let queue = CLIENTS.to_string();
    let server = Server::start(&["--queue", &queue, "--max-sequences", "16"]);
    let mut held = Vec::new();
    for number in 0..ROUNDS {
        let started = Instant::now();
        let mut waits = round(&server, number);
        let whole = started.elapsed();
        waits.sort();
        assert_eq!(waits.len(), CLIENTS);
        // Whoever comes first is answered first: half of the clients have theirs well before the last one.
        let median = waits[CLIENTS / 2];
        assert!(median < whole.mul_f64(0.9), "{median:?} of {whole:?}");
        held.push(resident(&server));
    }
    assert_eq!(server.metric("quest_running_sequences"), 0);
    println!("resident bytes after each round: {held:?}");
    // The first round fills what is kept for later ones: the prefix cache and the threads of connections.
    let (first, last) = (held[0], held[ROUNDS - 1]);
    assert!(last < first + first / 10, "{held:?}");
}
