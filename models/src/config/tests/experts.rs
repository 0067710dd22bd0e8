use super::*;

fn qwen3_moe(changes: Value) -> Value {
    let experts = json!({
        "num_key_value_heads": 2, "num_experts": 8, "moe_intermediate_size": 32
    });
    of_class("Qwen3MoeForCausalLM", changed(experts, changes))
}

#[test]
fn layers_have_the_experts_that_transformers_gives_them() {
    let experts = |changes| read(&qwen3_moe(changes)).unwrap().blocks.experts;
    let expected = Experts {
        count: 8,
        chosen: 8,
        d_ff: 32,
        is_normed: false,
        routing: Routing::Softmax,
        shared_d_ff: None,
        dense_layers: Vec::new(),
    };
    assert_eq!(experts(json!({})), Some(expected.clone()));
    let changes = json!({
        "norm_topk_prob": true, "num_experts_per_tok": 2, "decoder_sparse_step": 2
    });
    let some = Experts {
        chosen: 2,
        is_normed: true,
        dense_layers: vec![0, 2],
        ..expected.clone()
    };
    assert_eq!(experts(changes), Some(some));
    let named = json!({ "mlp_only_layers": [1] });
    let all_but_one = Experts {
        dense_layers: vec![1],
        ..expected
    };
    assert_eq!(experts(named), Some(all_but_one));
    assert_eq!(experts(json!({ "mlp_only_layers": [0, 1, 2] })), None);
}

#[test]
fn experts_that_cannot_be_are_refused() {
    for (changes, expected) in [
        (
            json!({ "num_experts_per_tok": 9 }),
            "field `num_experts_per_tok`: expected at most the 8 experts, found 9",
        ),
        (
            json!({ "num_experts": null }),
            "expected field `num_experts`, found none",
        ),
        (
            json!({ "quantization_config": {
                "quant_method": "gptq", "bits": 4, "group_size": 32
            } }),
            "unsupported quantization `gptq-int4 of experts`; supported: experts in f32, f16 or bf16",
        ),
    ] {
        let found = error(&qwen3_moe(changes));
        assert_eq!(found, format!("config.json: {expected}"));
    }
}
