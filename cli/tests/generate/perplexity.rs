//! Texts that are scored.

use super::*;

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
