//! Options that `quest serve` refuses.

use super::quest;

#[test]
fn what_cannot_be_served_is_refused_in_a_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (args, problem) in [
        (vec!["--port", &*port], "expected an address that is free"),
        (
            vec!["--policy", "h2o"],
            "--policy: expected dense or quest, found h2o",
        ),
        (
            vec!["--prefill-policy", "lazy"],
            "--prefill-policy: expected dense with serve, found lazy",
        ),
        (
            vec!["--prefill-policy", "quest"],
            "--prefill-policy: expected dense with serve, found quest",
        ),
        (vec!["--api-key", ""], "--api-key: expected a key"),
        (
            vec!["--max-sequences", "0"],
            "--max-sequences <N>': expected a number of sequences from 1 to 2147483647",
        ),
        (
            vec!["--step-tokens", "8"],
            "--step-tokens, --max-sequences: tokens of a step: expected at least",
        ),
        (
            vec!["--timeout", "0"],
            "--timeout <SECONDS>': 0 is not in 1..=",
        ),
        (
            vec!["--system", "Be brief."],
            "--system: expected --chat-template too",
        ),
        (
            vec!["--context", "1M"],
            "--context: the checkpoint is made for at most",
        ),
        (vec!["--host", "here"], "--host"),
        (
            vec!["--timeout", "99999999999999"],
            "is not in 1..=315360000",
        ),
        (
            vec!["--max-requests", "3000000000"],
            "expected a number from 1 to 2147483647",
        ),
        (
            vec!["--context", "4K", "--cache-tokens", "2K"],
            "--cache-tokens: expected at least 4096, as --context says, found 2048",
        ),
    ] {
        let output = quest(&["serve", "--device", "flex"])
            .args(&args)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(output.stdout.is_empty());
        let error = stderr.lines().last().unwrap();
        assert!(
            error.starts_with("error: ") && error.contains(problem),
            "{args:?}: {error}"
        );
    }
}
