//! What the program prints for good input, on small random checkpoints.

mod common;

use burn::tensor::DType;
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
        let options = [&args, &quest, &["--policy", policy][..], options].concat();
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

#[test]
fn perplexity_scores_every_token_but_the_first() {
    let (checkpoint, ids) = checkpoint();
    let scored = checkpoint.run_json("perplexity", &["--ids", &ids]);
    let nll = scored["nll"].as_array().unwrap().iter();
    let nll = nll.map(|nll| nll.as_f64().unwrap()).collect::<Vec<_>>();
    assert_eq!(nll.len(), PROMPT - 1);
    assert_eq!(scored["tokens"], PROMPT - 1);
    assert_eq!(scored["policy"], "dense", "no token is decoded");
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    assert!((scored["mean_nll"].as_f64().unwrap() - mean).abs() < 1e-6);
    let perplexity = scored["perplexity"].as_f64().unwrap();
    assert!((perplexity / mean.exp() - 1.0).abs() < 1e-6);

    let decoded = checkpoint.run_json(
        "perplexity",
        &["--ids", &ids, "--prefill", "40", "--policy", "dense"],
    );
    assert_eq!(decoded["policy"], "dense");
    let decoded = decoded["nll"].as_array().unwrap();
    assert_eq!(decoded.len(), PROMPT - 40);
    for (decoded, scored) in decoded.iter().zip(&nll[39..]) {
        let difference = (decoded.as_f64().unwrap() - scored).abs();
        assert!(
            difference <= 1e-4 * (1.0 + scored),
            "{decoded} and {scored}"
        );
    }
}

#[test]
fn perplexity_of_a_text_is_that_of_its_ids() {
    let spec = CheckpointSpec::default();
    let checkpoint = Checkpoint::new(&spec);
    write_words(checkpoint.path(), spec.vocab_size);
    let text = checkpoint.write("text.txt", "w9 w8 w7 w6");
    let ids = checkpoint.write_ids(&[1, 9, 8, 7, 6]);
    let of_text = checkpoint.run_json("perplexity", &["--text", text.to_str().unwrap()]);
    let of_ids = checkpoint.run_json("perplexity", &["--ids", ids.to_str().unwrap()]);
    assert_eq!(of_text, of_ids);
}

#[test]
fn perplexity_is_readable_without_json() {
    let (checkpoint, ids) = checkpoint();
    let text = checkpoint.run_text("perplexity", &["--ids", &ids]);
    let lines = text.lines().map(|line| line.split_whitespace().next());
    assert_eq!(
        lines.collect::<Vec<_>>(),
        [Some("perplexity"), Some("mean"), Some("tokens")]
    );
}

#[test]
fn info_counts_parameters_and_cache_bytes() {
    let spec = CheckpointSpec::default();
    let checkpoint = Checkpoint::new(&spec);
    let info = checkpoint.run_json("info", &["--context", "100", "--dtype", "f32"]);
    assert_eq!(info["architecture"], "Llama");
    // Embedding, output projection and last norm; attention, feed-forward and norms of a layer.
    let parameters = 2 * 160 * 64 + 64 + 4 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96 + 2 * 64);
    assert_eq!(info["parameters"], parameters);
    assert_eq!(info["weight_bytes"], 4 * parameters);
    assert_eq!(info["checkpoint_dtype"], "f32");
    assert_eq!(info["layers"], 4);
    assert_eq!(info["heads"], 4);
    assert_eq!(info["kv_heads"], 2);
    assert_eq!(info["head_dim"], 16);
    assert_eq!(info["rope"]["theta"], 10000.0);
    assert_eq!(info["context"], 1024);
    // 13 pages of 8 tokens; 4 layers, 2 heads of 16 channels, keys and values, 4 bytes.
    let row = 13 * 4 * 2 * 16 * 4;
    assert_eq!(info["kv_cache"]["tokens"], 100);
    assert_eq!(info["kv_cache"]["key_value_bytes"], 2 * 8 * row);
    // A mean, and a deviation that takes the room of 8 channels.
    assert_eq!(info["kv_cache"]["digest_bytes"], row + row / 2);

    let text = checkpoint.run_text("info", &[]);
    assert!(text.contains("1024 tokens in f32"), "{text}");

    // A byte per channel and a scale per row.
    let args = ["--context", "100", "--dtype", "f32", "--kv-cache", "int8"];
    let int8 = &checkpoint.run_json("info", &args)["kv_cache"];
    assert_eq!(int8["storage"], "int8");
    assert_eq!(int8["key_value_bytes"], 2 * 8 * 13 * 4 * 2 * (16 + 4));
    assert_eq!(int8["digest_bytes"], info["kv_cache"]["digest_bytes"]);
}

#[test]
fn a_checkpoint_in_half_precision_keeps_its_bits_on_a_cpu() {
    let checkpoint = Checkpoint::new(&CheckpointSpec {
        dtype: DType::BF16,
        ..CheckpointSpec::default()
    });
    let info = checkpoint.run_json("info", &["--device", "flex"]);
    let norms = 64 + 4 * 2 * 64;
    let parameters = info["parameters"].as_u64().unwrap();
    assert_eq!(
        (&info["dtype"], &info["weights"]),
        (&"f32".into(), &"bf16".into())
    );
    assert_eq!(info["weight_bytes"], 2 * (parameters - norms) + 4 * norms);
    let full = ["--device", "flex", "--weights", "full"];
    assert_eq!(
        checkpoint.run_json("info", &full)["weight_bytes"],
        4 * parameters
    );

    let ids = checkpoint.write_ids(&ids(PROMPT, CheckpointSpec::default().vocab_size));
    let ids = ids.to_str().unwrap();
    let nll = |args: &[&str]| {
        let args = [&["--ids", ids, "--device", "flex"], args].concat();
        let scored = checkpoint.run_json("perplexity", &args);
        (
            scored["mean_nll"].as_f64().unwrap(),
            scored["weights"].clone(),
        )
    };
    let (stored, full) = (nll(&[]), nll(&["--weights", "full"]));
    assert_eq!((stored.1, full.1), ("bf16".into(), "full".into()));
    assert!(
        (stored.0 - full.0).abs() < 1e-5,
        "{} and {}",
        stored.0,
        full.0
    );
}

#[test]
fn weights_in_fewer_bits_are_said_and_counted() {
    let (checkpoint, ids) = checkpoint();
    let full = checkpoint.run_json("perplexity", &["--ids", &ids]);
    assert_eq!(full["weights"], "full");
    let full_bytes = checkpoint.run_json("info", &["--dtype", "f32"])["weight_bytes"]
        .as_u64()
        .unwrap();
    // Weights of the projections of four layers, in groups of 64 or, in the last one, of 32.
    let (per_64, per_32) = (64 * (64 + 32 + 32 + 64) + 2 * 64 * 96, 64 * 96);
    let groups = per_64 / 64 + per_32 / 32;
    for (format, of_projections) in [
        ("int8", (per_64 + per_32) + 4 * groups),
        ("int4", (per_64 + per_32) / 2 + 8 * groups),
    ] {
        let form = ["--weights", format];
        let info = checkpoint.run_json("info", &[&["--dtype", "f32"], &form[..]].concat());
        assert_eq!(info["weights"], format);
        let saved = 4 * (4 * (per_64 + per_32) - of_projections);
        assert_eq!(info["weight_bytes"], full_bytes - saved, "{format}");
        let scored = checkpoint.run_json("perplexity", &[&["--ids", &ids], &form[..]].concat());
        assert_eq!(scored["weights"], format);
        assert_ne!(scored["mean_nll"], full["mean_nll"], "{format}");
        let output = checkpoint.run("info", &["--weights", "int3"]);
        assert_eq!(output.status.code(), Some(2));
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn both_cpu_devices_give_the_same_greedy_ids() {
    let (checkpoint, ids) = checkpoint();
    assert_eq!(
        greedy(&checkpoint, &ids, &["--device", "ndarray"]),
        greedy(&checkpoint, &ids, &["--device", "flex"])
    );
}

#[test]
fn auto_says_which_device_it_took() {
    let (checkpoint, _) = checkpoint();
    let output = checkpoint.run("info", &["--device", "auto"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.starts_with("device: "), "{stderr}");
}

#[test]
fn half_precision_is_taken_where_it_is_asked_for() {
    let (checkpoint, ids) = checkpoint();
    for dtype in ["f16", "bf16"] {
        let args = [
            "--ids",
            &ids,
            "--max-new-tokens",
            "3",
            "--ignore-eos",
            "--dtype",
            dtype,
        ];
        let generation = checkpoint.run_json("generate", &args);
        assert_eq!(generation["dtype"], dtype);
        assert_eq!(generation["ids"].as_array().unwrap().len(), 3);
    }
}
