use std::collections::BTreeMap;

use burn::{store::ModuleSnapshot, tensor::Device};

use super::*;

/// Names and shapes of the module's parameters, as a checkpoint has them.
fn of_module(config: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
    let tensors = config.init(&Device::default()).collect(None, None, true);
    let named = tensors.into_iter().map(|tensor| {
        let name = match tensor.name.strip_suffix(".gamma") {
            Some(norm) => format!("{norm}.weight"),
            None => tensor.name.clone(),
        };
        let is_head = name.starts_with("lm_head.");
        let name = if is_head {
            name
        } else {
            format!("model.{name}")
        };
        (name, tensor.shape.to_vec())
    });
    named.collect()
}

#[test]
fn the_list_of_tensors_is_what_the_module_has() {
    let small = json!({
        "num_key_value_heads": 2, "head_dim": 8, "num_attention_heads": 4, "attention_bias": true,
        "mlp_bias": true, "num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4,
        "moe_intermediate_size": 24, "mlp_only_layers": [1]
    });
    for &architecture in Architecture::ALL {
        for tied in [false, true] {
            let changes = changed(small.clone(), json!({ "tie_word_embeddings": tied }));
            let class = architecture.family().classes[0];
            let config = read(&of_class(class, changes)).unwrap();
            let listed = parameters::shapes(&config).collect::<BTreeMap<_, _>>();
            assert_eq!(listed, of_module(&config), "{class}");
        }
    }
}
