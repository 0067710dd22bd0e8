//! What the program prints for good input, on small random checkpoints.

#[path = "../common/mod.rs"]
mod common;

mod forms;
mod perplexity;
mod prompts;

use common::{Checkpoint, ids};
use quest_burn_tests::{checkpoint::CheckpointSpec, tokenizer::write_words};
use serde_json::{Value, json};

const PROMPT: usize = 100;

fn checkpoint() -> (Checkpoint, String) {
    let spec = CheckpointSpec::default();
    let checkpoint = Checkpoint::new(&spec);
    let ids = checkpoint.write_ids(&ids(PROMPT, spec.vocab_size));
    (checkpoint, ids.to_str().unwrap().to_owned())
}

/// New ids of a greedy run that nothing stops, with more options.
#[track_caller]
fn greedy(checkpoint: &Checkpoint, ids: &str, options: &[&str]) -> Vec<Value> {
    let args = ["--ids", ids, "--max-new-tokens", "12", "--ignore-eos"];
    let generation = checkpoint.run_json("generate", &[&args, options].concat());
    generation["ids"].as_array().unwrap().clone()
}

#[test]
fn generate_prints_one_object_with_ids_and_rates() {
    let (checkpoint, ids) = checkpoint();
    let args = ["--ids", &ids, "--max-new-tokens", "5", "--ignore-eos"];
    let generation = checkpoint.run_json("generate", &args);
    assert_eq!(generation["ids"].as_array().unwrap().len(), 5);
    assert_eq!(generation["text"], Value::Null);
    assert!(generation["prefill_tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(generation["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    assert_eq!(generation["prompt_tokens"], PROMPT);
    assert_eq!(generation["finish"], "length");
    assert_eq!(generation["device"], "flex");
    assert_eq!(generation["dtype"], "f32");
    assert_eq!(generation["policy"], "quest");
    assert_eq!(generation["prefill_policy"], "dense");
}

#[test]
fn greedy_ids_do_not_depend_on_the_run_or_the_prefill_chunk() {
    let (checkpoint, ids) = checkpoint();
    let once = greedy(&checkpoint, &ids, &[]);
    assert_eq!(once.len(), 12);
    assert_eq!(greedy(&checkpoint, &ids, &[]), once);
    assert_eq!(greedy(&checkpoint, &ids, &["--prefill-chunk", "17"]), once);
    assert_eq!(greedy(&checkpoint, &ids, &["--context", "1000"]), once);
}

#[test]
fn a_budget_that_covers_the_context_gives_the_dense_ids() {
    let (checkpoint, ids) = checkpoint();
    let dense = greedy(&checkpoint, &ids, &["--policy", "dense"]);
    for variant in ["accuracy-code", "kernels", "kv-group"] {
        let quest = ["--quest-variant", variant, "--token-budget", "112"];
        assert_eq!(greedy(&checkpoint, &ids, &quest), dense, "{variant}");
    }
    let int8 = ["--kv-cache", "int8", "--policy", "dense"];
    let dense = greedy(&checkpoint, &ids, &int8);
    for storage in ["full", "int8"] {
        let quest = [
            "--kv-cache",
            "int8",
            "--token-budget",
            "112",
            "--digest-storage",
            storage,
        ];
        assert_eq!(
            greedy(&checkpoint, &ids, &quest),
            dense,
            "digests {storage}"
        );
    }
}

#[test]
fn a_small_budget_in_every_layer_changes_the_likelihoods() {
    let (checkpoint, ids) = checkpoint();
    let nll = |options: &[&str]| {
        let args = ["--ids", &ids, "--prefill", "80", "--page-size", "8"];
        let scored = checkpoint.run_json("perplexity", &[&args, options].concat());
        scored["nll"].as_array().unwrap().clone()
    };
    let dense = nll(&["--policy", "dense"]);
    let quest = nll(&["--token-budget", "16", "--dense-layers", "0"]);
    assert_eq!((dense.len(), quest.len()), (20, 20));
    assert_ne!(dense, quest);
    assert_eq!(nll(&["--token-budget", "104"]), dense);
}

#[test]
fn a_seed_gives_the_same_draws_and_another_seed_gives_others() {
    let (checkpoint, ids) = checkpoint();
    let draw = |seed| {
        let options = ["--temperature", "1.5", "--top-p", "0.95", "--seed", seed];
        greedy(&checkpoint, &ids, &options)
    };
    assert_eq!(draw("3"), draw("3"));
    assert_ne!(draw("3"), draw("4"));
}

#[test]
fn lossless_ids_are_the_dense_ones_and_say_how_many_drafts_were_taken() {
    let (checkpoint, ids) = checkpoint();
    let small = ["--token-budget", "16", "--page-size", "8"];
    let dense = greedy(
        &checkpoint,
        &ids,
        &["--policy", "dense", "--page-size", "8"],
    );
    let lossless = [&small[..], &["--lossless"]].concat();
    assert_eq!(greedy(&checkpoint, &ids, &lossless), dense);
    let args = [
        &["--ids", &ids, "--max-new-tokens", "12", "--ignore-eos"][..],
        &lossless,
        &["--draft-tokens", "3"],
    ];
    let generation = checkpoint.run_json("generate", &args.concat());
    assert_eq!(generation["ids"].as_array().unwrap(), &dense);
    let acceptance = generation["draft_acceptance"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&acceptance), "{acceptance}");
    let per_pass = generation["tokens_per_dense_pass"].as_f64().unwrap();
    assert!((1.0..=4.0).contains(&per_pass), "{per_pass}");
}

#[test]
fn top_k_of_one_is_greedy() {
    let (checkpoint, ids) = checkpoint();
    let options = ["--temperature", "2", "--top-k", "1"];
    assert_eq!(
        greedy(&checkpoint, &ids, &options),
        greedy(&checkpoint, &ids, &[])
    );
}

#[test]
fn a_stop_id_of_the_checkpoint_ends_the_generation() {
    let (checkpoint, ids) = checkpoint();
    let all = greedy(&checkpoint, &ids, &[]);
    let stop = &all[3];
    let first = all.iter().position(|id| id == stop).unwrap();
    checkpoint.edit_json("generation_config.json", |config| {
        config["eos_token_id"] = json!([stop]);
    });
    let args = ["--ids", &ids, "--max-new-tokens", "12"];
    let stopped = checkpoint.run_json("generate", &args);
    assert_eq!(stopped["ids"].as_array().unwrap(), &all[..=first]);
    assert_eq!(stopped["finish"], "stop");
    assert_eq!(greedy(&checkpoint, &ids, &[]), all, "--ignore-eos");
}

#[test]
fn ids_are_streamed_where_there_is_no_tokenizer() {
    let (checkpoint, ids) = checkpoint();
    let args = ["--ids", &ids, "--max-new-tokens", "12", "--ignore-eos"];
    let streamed = checkpoint.run_text("generate", &args);
    let expected = greedy(&checkpoint, &ids, &[]);
    let expected = expected.iter().map(Value::to_string).collect::<Vec<_>>();
    assert_eq!(streamed, expected.join(" ") + "\n");
}

#[test]
fn text_goes_in_and_comes_out_where_there_is_a_tokenizer() {
    let spec = CheckpointSpec::default();
    let checkpoint = Checkpoint::new(&spec);
    write_words(checkpoint.path(), spec.vocab_size);
    let options = ["--max-new-tokens", "12", "--ignore-eos"];

    let from_text = [&["--prompt", "w3 w14 w15"], &options[..]].concat();
    let generation = checkpoint.run_json("generate", &from_text);
    assert_eq!(
        generation["prompt_tokens"], 4,
        "with the beginning of a text"
    );
    let words = generation["ids"].as_array().unwrap().iter();
    let words = words.filter(|id| id.as_u64().unwrap() > 2);
    // Each with the space that parts it from the word before, the first one too.
    let text = words.map(|id| format!(" w{id}")).collect::<String>();
    assert_eq!(generation["text"], text);
    assert_eq!(checkpoint.run_text("generate", &from_text), text + "\n");

    let ids = checkpoint.write_ids(&[1, 3, 14, 15]);
    let from_ids = [&["--ids", ids.to_str().unwrap()], &options[..]].concat();
    let same = checkpoint.run_json("generate", &from_ids);
    assert_eq!(same["ids"], generation["ids"]);
    assert_eq!(same["text"], generation["text"]);

    let file = checkpoint.write("prompt.txt", "w3 w14 w15\n");
    let from_file = [&["--prompt-file", file.to_str().unwrap()], &options[..]].concat();
    let same = checkpoint.run_json("generate", &from_file);
    assert_eq!(same["ids"], generation["ids"]);
}

#[test]
fn a_policy_that_frees_pages_bounds_the_cache_of_a_long_answer() {
    let (checkpoint, ids) = checkpoint();
    let cache_bytes = |policy: &str, new_tokens: usize, options: &[&str]| {
        let n = new_tokens.to_string();
        let args = ["--ids", &ids, "--max-new-tokens", &n, "--ignore-eos"];
        let quest = ["--token-budget", "16", "--dense-layers", "0"];
        let policy = ["--policy", policy];
        let options = [&args[..], &quest, &policy, options].concat();
        let generation = checkpoint.run_json("generate", &options);
        assert_eq!(generation["ids"].as_array().unwrap().len(), new_tokens);
        let bytes = generation["kv_cache_bytes"].as_u64().unwrap();
        (generation["ids"].clone(), bytes)
    };
    let (kept, whole) = cache_bytes("raas", 800, &[]);
    let (freed, bounded) = cache_bytes("raas:free=true", 800, &[]);
    assert_eq!(freed, kept);
    assert!(4 * bounded < whole, "{bounded} of {whole} bytes");
    // No less for a shorter answer, and nothing is reserved for a context.
    for (new_tokens, options) in [(400, &[][..]), (400, &["--context", "1000"])] {
        assert_eq!(
            cache_bytes("raas:free=true", new_tokens, options).1,
            bounded
        );
    }
}
