//! Projections whose rows checkpoints have in one tensor, or in another order.

use quest_burn::attention::RopeConfig;

use crate::{config::ModelConfig, source::SourceTensor};

/// The tensors of a model by its own names, with rows in its order.
pub(super) fn of_model(tensors: Vec<SourceTensor>, config: &ModelConfig) -> Vec<SourceTensor> {
    let tensors = match config.blocks.merged_projections {
        true => tensors.into_iter().flat_map(|t| split(t, config)).collect(),
        false => tensors,
    };
    let mut tensors = tensors
        .into_iter()
        .flat_map(experts)
        .collect::<Vec<SourceTensor>>();
    if config.blocks.plain_qk_norm {
        tensors.extend(norms_of_ones(&tensors, config));
    }
    let Some(order) = order(config) else {
        return tensors;
    };
    let ordered = tensors.into_iter().map(|tensor| {
        let is_rotated = ["q_proj.", "k_proj."]
            .iter()
            .any(|part| tensor.name.contains(part));
        let rows = tensor.shape.first().copied().unwrap_or(0);
        // Others are refused by their shape.
        if !is_rotated || !rows.is_multiple_of(order.len()) {
            return tensor;
        }
        let heads = (0..rows).step_by(order.len());
        let rows = heads.flat_map(|head| order.iter().map(move |row| head + row));
        let name = tensor.name.clone();
        tensor.with_rows(name, rows.collect())
    });
    ordered.collect()
}

/// The experts that are in a tensor of three axes, `[experts, d_input, d_output]`: matrices of a model
/// have their outputs first.
fn experts(tensor: SourceTensor) -> Vec<SourceTensor> {
    const STACKED: [(&str, &[&str]); 2] = [
        (".experts.gate_up_proj", &["gate_proj", "up_proj"]),
        (".experts.down_proj", &["down_proj"]),
    ];
    let stacked = STACKED.iter().find(|(name, _)| tensor.name.ends_with(name));
    let (Some((name, parts)), &[count, d_input, d_output]) = (stacked, &tensor.shape[..]) else {
        return vec![tensor];
    };
    if !d_output.is_multiple_of(parts.len()) {
        return vec![tensor];
    }
    let before = tensor.name.trim_end_matches(name).to_owned();
    let rows = d_output / parts.len();
    let matrices = (0..count).flat_map(|expert| parts.iter().zip(0..).map(move |p| (expert, p)));
    let matrices = matrices.map(|(expert, (part, index))| {
        let name = format!("{before}.experts.{expert}.{part}.weight");
        let first = index * rows;
        tensor
            .clone()
            .transposed(name, expert, [d_input, d_output], first..first + rows)
    });
    matrices.collect()
}

/// The weights of norms that have none, beside the projections of their layers.
fn norms_of_ones(tensors: &[SourceTensor], config: &ModelConfig) -> Vec<SourceTensor> {
    let rotated = (0..config.n_layers).filter(|layer| config.blocks.norms_queries(*layer));
    let Some(like) = tensors.first() else {
        return Vec::new();
    };
    let names = rotated.flat_map(|layer| {
        ["q_norm", "k_norm"].map(|norm| format!("model.layers.{layer}.self_attn.{norm}.weight"))
    });
    names
        .map(|name| SourceTensor::ones(name, config.head_dim, like))
        .collect()
}

/// A tensor, or those that are in it.
fn split(tensor: SourceTensor, config: &ModelConfig) -> Vec<SourceTensor> {
    let (queries, keys) = (
        config.n_heads * config.head_dim,
        config.n_kv_heads * config.head_dim,
    );
    let merged = [
        (
            "qkv_proj",
            &[("q_proj", queries), ("k_proj", keys), ("v_proj", keys)][..],
        ),
        (
            "gate_up_proj",
            &[("gate_proj", config.d_ff), ("up_proj", config.d_ff)],
        ),
    ];
    for (name, parts) in merged {
        let Some((before, behind)) = tensor.name.split_once(name) else {
            continue;
        };
        let rows = parts.iter().map(|(_, rows)| rows).sum::<usize>();
        if tensor.shape.first() != Some(&rows) {
            continue;
        }
        let mut first = 0;
        let parts = parts.iter().map(|(part, rows)| {
            let taken = (first..first + rows).collect();
            first += rows;
            (tensor.clone()).with_rows(format!("{before}{part}{behind}"), taken)
        });
        return parts.collect();
    }
    vec![tensor]
}

/// Which of a checkpoint's rows of a head is where: channels that are rotated come first there, and here
/// first in either half, so that every channel is paired with the one half a head away.
fn order(config: &ModelConfig) -> Option<Vec<usize>> {
    let head_dim = config.head_dim;
    match config.blocks.neighbours_rotated {
        // Of neighbours one is in either half.
        true => Some(
            (0..2)
                .flat_map(|side| (side..head_dim).step_by(2))
                .collect(),
        ),
        false => order_of_part(&config.rope, head_dim),
    }
}

/// The same where a part of a head is rotated.
fn order_of_part(rope: &RopeConfig, head_dim: usize) -> Option<Vec<usize>> {
    let rotated = rope.rotary_dim.filter(|rotated| *rotated < head_dim)?;
    let (half, turned) = (head_dim / 2, rotated / 2);
    let of_half = |side: usize| {
        let still = rotated + side * (half - turned);
        (side * turned..(side + 1) * turned).chain(still..still + half - turned)
    };
    Some(of_half(0).chain(of_half(1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_that_are_rotated_come_first_in_either_half() {
        let rope = RopeConfig::new().with_rotary_dim(Some(4));
        assert_eq!(order_of_part(&rope, 8), Some(vec![0, 1, 4, 5, 2, 3, 6, 7]));
        assert_eq!(order_of_part(&rope, 4), None);
        assert_eq!(order_of_part(&RopeConfig::new(), 8), None);
    }
}
