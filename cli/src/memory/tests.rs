use quest_burn::{
    cache::{DigestStorage, KvStorage},
    digest::DigestKind,
};
use quest_burn_linear::blocks::BlockFormat;
use quest_burn_models::{
    config::ModelConfig,
    weights::{KeptForm, KeptWeights},
};
use quest_burn_tests::checkpoint::{self, CheckpointSpec};

use super::{
    demand::{BLOCK_SLACK, PER_RECORDING},
    *,
};
use crate::device::{self, DeviceName};

fn config() -> ModelConfig {
    let dir = tempfile::tempdir().unwrap();
    let spec = CheckpointSpec {
        d_model: 128,
        d_ff: 1024,
        max_positions: 1 << 20,
        ..CheckpointSpec::default()
    };
    checkpoint::write(dir.path(), &spec);
    ModelConfig::from_dir(dir.path()).unwrap()
}

fn demand(config: &ModelConfig, tokens: usize) -> Demand<'_> {
    Demand {
        config,
        form: Form {
            dtype: DType::F32,
            weights: WeightFormat::Full,
        },
        kept: None,
        page_size: 16,
        digest: DigestKind::MinMax,
        digest_storage: DigestStorage::Full,
        kv_storage: KvStorage::Full,
        is_lazy: false,
        frees_pages: false,
        tokens,
        work: Work::chunk(4096),
    }
}

fn cpu() -> SelectedDevice {
    device::select(DeviceName::Flex).unwrap()
}

/// What is said where there are so many bytes.
fn remedy_for(demand: &Demand, bytes: u64) -> String {
    remedy(demand, &cpu(), &|form, tokens| {
        demand.bytes(form, tokens) <= bytes
    })
}

#[test]
fn weights_cache_and_work_are_counted() {
    let config = config();
    let demand = demand(&config, 4096);
    let weights = config.weight_bytes(DType::F32, WeightFormat::Full).unwrap();
    let cache = config.cache(16, 1, 4096).bytes(DType::F32);
    let bytes = demand.bytes(demand.form, demand.tokens);
    assert!(bytes > weights + cache, "{bytes}");
    let scored = Demand {
        work: Work {
            logits: 4096,
            ..demand.work
        },
        ..demand.clone()
    };
    let logits = 4095 * config.vocab_size as u64 * 8;
    assert_eq!(scored.bytes(scored.form, 4096), bytes + logits);
}

#[test]
fn recordings_are_counted_in_whole_blocks() {
    let config = config();
    let demand = demand(&config, 1 << 16);
    let with = |recordings| {
        let work = Work {
            tokens: 512,
            logits: 32,
            recordings,
        };
        let demand = Demand {
            work,
            ..demand.clone()
        };
        (demand.bytes(demand.form, 1 << 16), demand.parts())
    };
    let [none, one, many] = [0, 1, 13].map(with);
    // Keys of a layer are larger than all else, also than all that a step of 32 tokens is at work on.
    let keys = config.cache(16, 1, 1 << 16).key_value_bytes(DType::F32) / 2;
    let keys = keys / config.n_layers as u64;
    let of_one = keys + BLOCK_SLACK + PER_RECORDING;
    assert_eq!(one.0 - none.0, of_one);
    assert_eq!(many.0 - none.0, 13 * of_one);
    assert!(!none.1.contains("recordings"), "{}", none.1);
    assert!(many.1.contains(", 13 recordings of"), "{}", many.1);
}

#[test]
fn the_longest_context_is_the_last_that_fits() {
    let config = config();
    let demand = demand(&config, 1 << 20);
    let bytes = demand.bytes(demand.form, 4096);
    let remedy = remedy_for(&demand, bytes + 100);
    assert!(
        remedy.starts_with("the longest context that fits is 4096 tokens"),
        "{remedy}"
    );
    // Where pages become free, a context may be longer.
    let freeing = Demand {
        frees_pages: true,
        ..demand.clone()
    };
    let remedy = remedy_for(&freeing, bytes + 100);
    assert!(remedy.starts_with("4096 tokens at once fit: "), "{remedy}");
    assert!(!remedy.contains("context"), "{remedy}");
    assert!(freeing.parts().contains("for 1048576 tokens at once, "));
    // No longer than the model's.
    let everything = demand.longest(&|_| true);
    assert_eq!(everything, Some(1 << 20));
}

#[test]
fn options_with_which_all_of_it_fits_are_named() {
    let config = config();
    let demand = demand(&config, 4096);
    let half = Form {
        dtype: DType::F16,
        ..demand.form
    };
    let remedy = remedy_for(&demand, demand.bytes(half, 4096));
    assert!(
        remedy.contains("all of it fits with --dtype f16"),
        "{remedy}"
    );
    // Weights are the smaller part: their form alone changes too little.
    assert!(!remedy.contains("with --weights int4"), "{remedy}");
    assert!(!remedy.contains("or --weights int4"), "{remedy}");
}

#[test]
fn options_are_named_too_where_only_weights_are_beyond_memory() {
    let config = ModelConfig {
        n_layers: 32,
        d_ff: 1 << 14,
        ..config()
    };
    let demand = demand(&config, 1 << 20);
    let weights = config.weight_bytes(DType::F32, WeightFormat::Full).unwrap();
    let remedy = remedy_for(&demand, weights * 3 / 4);
    assert!(
        remedy.starts_with("with --dtype f16 --weights int4 it is "),
        "{remedy}"
    );
    assert_eq!(
        remedy_for(&demand, 1000),
        "nothing fits, whatever the options"
    );
}

#[test]
fn blocks_count_in_their_bits_and_are_named_where_they_would_fit() {
    let config = config();
    let full = demand(&config, 16);
    let blocks = KeptWeights {
        form: KeptForm::Blocks(BlockFormat::Q8_0),
        weights: 1 << 17,
        bytes: (1 << 17) / 32 * 34,
        embedding: None,
        has_tied_head: false,
    };
    let demand = Demand {
        kept: Some(blocks),
        ..full.clone()
    };
    assert_eq!(demand.bytes(demand.form, 16), full.bytes(full.form, 16));
    let stored = Form {
        weights: WeightFormat::Stored,
        ..demand.form
    };
    let saved = 4 * blocks.weights - blocks.bytes;
    assert_eq!(
        demand.bytes(stored, 16),
        demand.bytes(demand.form, 16) - saved
    );
    let remedy = remedy_for(&demand, demand.bytes(stored, 16));
    assert!(remedy.contains("--weights stored"), "{remedy}");
    let demand = Demand {
        form: stored,
        ..demand
    };
    assert!(
        demand.parts().contains("in Q8_0 blocks"),
        "{}",
        demand.parts()
    );
}

#[test]
fn half_a_checkpoint_counts_two_bytes_a_weight_beside_a_cache_in_f32() {
    let config = config();
    let full = demand(&config, 16);
    let halves = KeptWeights {
        form: KeptForm::Half(DType::BF16),
        weights: 1 << 17,
        bytes: 2 << 17,
        embedding: None,
        has_tied_head: false,
    };
    let stored = Form {
        weights: WeightFormat::Stored,
        ..full.form
    };
    let demand = Demand {
        form: stored,
        kept: Some(halves),
        ..full.clone()
    };
    let saved = 2 * halves.weights;
    assert_eq!(demand.bytes(stored, 16), full.bytes(full.form, 16) - saved);
    let parts = demand.parts();
    assert!(parts.contains(" in bf16, KV cache "), "{parts}");
    assert!(parts.contains(" in f32 for 16 tokens"), "{parts}");
}

#[test]
fn what_is_beyond_any_machine_is_refused() {
    let config = config();
    assert!(check(&demand(&config, 16), &cpu()).is_ok());
    let error = check(&demand(&config, usize::MAX / 64), &cpu()).unwrap_err();
    let error = error.to_string();
    assert!(error.starts_with("memory: expected room for "), "{error}");
    assert!(
        error.contains(" on this machine; the longest context"),
        "{error}"
    );
}

#[test]
fn a_form_that_the_weights_cannot_have_is_refused_as_such() {
    let config = ModelConfig {
        d_ff: 24,
        ..config()
    };
    let mut demand = demand(&config, 16);
    demand.form.weights = WeightFormat::Int8;
    let error = check(&demand, &cpu()).unwrap_err().to_string();
    assert!(
        error.contains("expected a multiple of 16 input channels, found a layer of 24"),
        "{error}"
    );
}
