//! What is said before the server answers.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use super::{Server, quest};

#[test]
fn a_context_that_the_cache_cuts_is_told_and_the_device_is_named_once() {
    let mut command = quest(&["serve", "--port", "0", "--cache-tokens", "2K"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut address = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut address).unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let server = Server { child, address };
    assert_eq!(server.terminate(), 0);
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("device:").count(), 1, "{said}");
    let warning = "warning: the context is 2048 tokens instead of";
    assert!(said.contains(warning), "{said}");
    assert!(said.contains("as --cache-tokens says"), "{said}");
}
