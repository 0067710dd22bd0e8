//! Signals before the server answers.

use std::{process::Stdio, thread, time::Duration};

use super::{Server, quest};

/// Whether a process handles SIGTERM itself.
fn catches_sigterm(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    // Signal 15 is bit 14.
    caught >> 14 & 1 == 1
}

#[test]
fn a_signal_while_the_model_is_loaded_is_a_clean_end() {
    // Before, while and after the weights are read.
    for delay in [0, 20, 60, 200] {
        let mut command = quest(&["serve", "--device", "flex", "--port", "0"]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Server {
            child,
            address: String::new(),
        };
        while !catches_sigterm(server.child.id()) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(delay));
        assert_eq!(server.terminate(), 0, "after {delay} ms");
    }
}
