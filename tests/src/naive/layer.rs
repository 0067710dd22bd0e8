use super::{Model, attention::dot, model::add};

/// What a layer is made of.
impl Model {
    pub(super) fn embedding(&self, id: u32) -> Vec<f64> {
        let embedding = &self.tensors["model.embed_tokens.weight"];
        let d_model = self.tensors["model.norm.weight"].len();
        embedding[id as usize * d_model..][..d_model].to_vec()
    }

    /// Adds what a layer's feed-forward block makes of a hidden state.
    pub(super) fn add_feed_forward(&self, layer: usize, hidden: &mut [f64]) {
        let prefix = format!("model.layers.{layer}");
        let input = self.norm(&format!("{prefix}.post_attention_layernorm"), hidden);
        let gate = self.linear(&format!("{prefix}.mlp.gate_proj"), &input);
        let up = self.linear(&format!("{prefix}.mlp.up_proj"), &input);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let inner = gate
            .iter()
            .zip(&up)
            .map(|(g, u)| silu(*g) * u)
            .collect::<Vec<_>>();
        add(
            hidden,
            &self.linear(&format!("{prefix}.mlp.down_proj"), &inner),
        );
    }

    /// What follows the last layer.
    pub(super) fn logits(&self, hidden: &[f64]) -> Vec<f64> {
        let hidden = self.norm("model.norm", hidden);
        let head = match self.tied {
            true => "model.embed_tokens",
            false => "lm_head",
        };
        self.linear(head, &hidden)
    }

    /// The heads of a projection, normalised where the model does so, and rotated.
    pub(super) fn heads(
        &self,
        prefix: &str,
        which: &str,
        input: &[f64],
        position: Option<usize>,
    ) -> Vec<Vec<f64>> {
        let projected = self.linear(&format!("{prefix}.{which}_proj"), input);
        let norm = format!("{prefix}.{which}_norm");
        let is_normed = self.tensors.contains_key(&format!("{norm}.weight"));
        projected
            .chunks(self.head_dim)
            .map(|head| {
                let mut head = if is_normed {
                    self.norm(&norm, head)
                } else {
                    head.to_vec()
                };
                if let Some(position) = position {
                    self.rope.rotate(&mut head, position);
                }
                head
            })
            .collect()
    }

    pub(super) fn linear(&self, name: &str, input: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[&format!("{name}.weight")];
        let mut output = weight
            .chunks(input.len())
            .map(|row| dot(row, input))
            .collect::<Vec<_>>();
        if let Some(bias) = self.tensors.get(&format!("{name}.bias")) {
            add(&mut output, bias);
        }
        output
    }

    pub(super) fn norm(&self, name: &str, input: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[&format!("{name}.weight")];
        let rms = (dot(input, input) / input.len() as f64 + self.epsilon).sqrt();
        input.iter().zip(weight).map(|(x, w)| x / rms * w).collect()
    }
}
