//! Which models' decode steps can be recorded.

use burn::tensor::Device;

use super::*;
use crate::{inference::InferenceLm, model::LanguageModel};

fn windows(layers: [bool; 3]) -> Option<Windows> {
    Some(Windows {
        tokens: 16,
        are_chunks: false,
        layers: layers.to_vec(),
        rope: None,
    })
}

#[test]
fn a_configuration_says_of_recordings_what_its_models_say() {
    let experts = of_class(
        "Qwen3MoeForCausalLM",
        json!({
            "num_key_value_heads": 2, "num_experts": 2, "moe_intermediate_size": 32,
            "num_experts_per_tok": 1, "mlp_only_layers": [0, 1]
        }),
    );
    let experts = read(&experts).unwrap().blocks.experts;
    assert!(experts.is_some());
    let none_has_experts = experts.clone().map(|experts| Experts {
        dense_layers: vec![0, 1, 2],
        ..experts
    });
    let llama = Blocks::default;
    #[rustfmt::skip]
    let cases = [
        (true, llama()),
        (true, Blocks { qkv_bias: true, qk_norm: true, ..llama() }),
        (true, Blocks { logit_soft_cap: Some(30.0), ..llama() }),
        (true, Blocks { windows: windows([false; 3]), ..llama() }),
        (false, Blocks { windows: windows([false, false, true]), ..llama() }),
        (false, Blocks { attention_soft_cap: Some(50.0), ..llama() }),
        (false, Blocks { experts, ..llama() }),
        (true, Blocks { experts: none_has_experts, ..llama() }),
    ];
    let config = read(&super::llama(json!({}))).unwrap();
    for (expected, blocks) in cases {
        let config = ModelConfig {
            blocks,
            ..config.clone()
        };
        let model = config.init(&Device::default());
        let of_model = model.is_capturable();
        let of_inference = InferenceLm::from(model).is_capturable();
        let found = [
            config.blocks.is_capturable(config.n_layers),
            of_model,
            of_inference,
        ];
        assert_eq!(found, [expected; 3], "{:?}", config.blocks);
    }
}

#[test]
fn a_model_has_windows_where_one_of_its_layers_has_one() {
    let has = |layers, n_layers| {
        let blocks = Blocks {
            windows: windows(layers),
            ..Blocks::default()
        };
        blocks.has_windows(n_layers)
    };
    assert!(!Blocks::default().has_windows(3));
    assert!(!has([false; 3], 3));
    assert!(has([false, false, true], 3));
    // What is listed past the last layer is no layer's.
    assert!(!has([false, false, true], 2));
}
