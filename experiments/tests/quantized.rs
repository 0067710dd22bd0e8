//! What weights in 8 and 4 bits cost in perplexity, on the model that the repository ships.

use std::{fmt::Write, path::Path};

use burn::tensor::{DType, Device};
use quest_burn::{inference::WeightFormat, policy::DensePolicy};
use quest_burn_models::{
    config::ModelConfig,
    generation::{LikelihoodMode, negative_log_likelihoods},
    tokenizer::Tokenizer,
    weights,
};

/// Sentences of the kind that the model knows, in an order that does not repeat.
fn prose(sentences: usize) -> String {
    const NAMES: [&str; 5] = ["Anna", "Boris", "Clara", "Oscar", "Vera"];
    const DEEDS: [&str; 5] = ["found", "lost", "saw", "took", "painted"];
    const THINGS: [&str; 7] = [
        "apple", "basket", "clock", "lamp", "mirror", "violin", "window",
    ];
    const PLACES: [&str; 5] = ["attic", "barn", "castle", "garden", "market"];
    let mut state = 1_u32;
    let mut draw = |words: &[&'static str]| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words[(state >> 16) as usize % words.len()]
    };
    let mut text = String::new();
    for i in 0..sentences {
        let (name, deed, thing, place) = (draw(&NAMES), draw(&DEEDS), draw(&THINGS), draw(&PLACES));
        let sentence = match i % 3 {
            0 => write!(text, "{name} {deed} the {thing}. "),
            1 => write!(text, "{name} {deed} the {thing} near the {place}. "),
            _ => write!(text, "There is the {thing} in the {place}. "),
        };
        sentence.expect("strings take everything");
    }
    text
}

fn mean_nll(dir: &Path, ids: &[u32], format: WeightFormat) -> f64 {
    let device = Device::default();
    let config = ModelConfig::from_dir(dir).unwrap();
    let progress = &mut |_| ();
    let model = weights::load_for_inference(dir, &config, &device, DType::F32, format, progress);
    let cache = config.cache(16, 1, ids.len());
    let nlls = negative_log_likelihoods(
        &model.unwrap(),
        &mut cache.init(&device, DType::F32).unwrap(),
        &DensePolicy,
        ids,
        LikelihoodMode::Dense { chunk: 256 },
        &mut |_| (),
    );
    let nlls = nlls.unwrap();
    nlls.iter().map(|&nll| f64::from(nll)).sum::<f64>() / nlls.len() as f64
}

#[test]
fn rounded_weights_cost_little_perplexity() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/quest-passkey");
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    let ids = tokenizer.encode(&prose(60)).unwrap();
    let full = mean_nll(&dir, &ids, WeightFormat::Full);
    println!("{} tokens, perplexity {:.4}", ids.len(), full.exp());
    for (format, most) in [(WeightFormat::Int8, 0.01), (WeightFormat::Int4, 0.05)] {
        let loss = mean_nll(&dir, &ids, format) - full;
        println!(
            "{format}: {loss:+.5} nats a token, perplexity * {:.4}",
            loss.exp()
        );
        assert!(loss.abs() <= most, "{format}: {loss}");
    }
}
