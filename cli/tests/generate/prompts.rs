//! How prompts are read.

use super::*;

#[test]
fn a_prefill_budget_that_covers_the_past_gives_what_a_dense_prefill_gives() {
    let (checkpoint, ids) = checkpoint();
    let chunk = ["--ids", &ids, "--prefill-chunk", "16"];
    let scored = |options: &[&str]| {
        let scored = checkpoint.run_json("perplexity", &[&chunk, options].concat());
        scored["nll"].clone()
    };
    let dense = scored(&[]);
    let quest = |budget| ["--prefill-policy", "quest", "--prefill-budget", budget];
    assert_eq!(scored(&quest("96")), dense);
    assert_ne!(scored(&quest("32")), dense);

    let generation = checkpoint.run_json("generate", &[&chunk[..], &quest("32")].concat());
    assert_eq!(
        generation["prefill_policy"],
        "quest:budget=32,rows=16,first=1,last=1"
    );
}

#[test]
fn a_lazy_prompt_says_how_much_was_computed() {
    let (checkpoint, ids) = checkpoint();
    let run = |subcommand: &str, options: &[&str]| {
        checkpoint.run_json(subcommand, &[&["--ids", &ids], options].concat())
    };
    let lazy = |rates| ["--prefill-policy", "lazy", "--prefill-rates", rates];
    let dense = run("generate", &[]);
    let none = run("generate", &lazy("0"));
    assert_eq!(none["ids"], dense["ids"]);
    for whole in [&none, &dense] {
        assert_eq!(whole["share_computed"], 1.0);
    }
    let share = |run: &Value| run["share_computed"].as_f64().unwrap();
    let half = run("generate", &lazy("0.5"));
    assert!((0.4..1.0).contains(&share(&half)), "{half}");
    let revive = ["--prefill-revive", "0.25"];
    let revived = run("generate", &[&lazy("0.5")[..], &revive].concat());
    // Within a few tokens each one may come back.
    assert!(share(&revived) > share(&half), "{revived}");
    assert!(share(&revived) <= 1.0, "{revived}");
    assert_eq!(
        revived["prefill_policy"],
        "lazy:layers=0.3+0.6+0.9,rates=0.5,queries=1,first=0,last=1,revive=0.25"
    );

    let scored = run(
        "perplexity",
        &[&lazy("0.5")[..], &["--prefill", "60"]].concat(),
    );
    assert_eq!(scored["tokens"], PROMPT - 60);
    assert!(scored["share_computed"].as_f64().unwrap() < 1.0);
}

#[test]
fn a_prompt_that_nothing_follows_is_counted() {
    let (checkpoint, ids) = checkpoint();
    let output = checkpoint.run("generate", &["--ids", &ids, "--max-new-tokens", "0"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("prompt: 100 tokens, -; new: 0 tokens"),
        "{stderr}"
    );
}
