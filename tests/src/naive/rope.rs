use std::f64::consts::TAU;

use serde_json::Value;

/// Rotary position embedding, first half of the channels against the second.
#[derive(Clone, Debug)]
pub struct Rope {
    inv_freq: Vec<f64>,
    attention_factor: f64,
}

impl Rope {
    /// As a Hugging Face `config.json` describes it, in either style.
    ///
    /// # Panics
    ///
    /// When the type is unknown or a number is missing.
    pub fn from_config(config: &Value, head_dim: usize) -> Self {
        let scaling = match config.get("rope_parameters") {
            Some(parameters) => parameters,
            None => &config["rope_scaling"],
        };
        let theta = scaling.get("rope_theta").or(config.get("rope_theta"));
        let theta = theta.map_or(10000.0, number);
        let kind = scaling.get("rope_type").or(scaling.get("type"));
        let kind = kind.and_then(Value::as_str).unwrap_or("default");
        let default = (0..head_dim / 2)
            .map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64))
            .collect::<Vec<_>>();
        let (inv_freq, attention_factor) = match kind {
            "default" => (default, 1.0),
            "linear" => {
                let factor = number(&scaling["factor"]);
                (default.iter().map(|f| f / factor).collect(), 1.0)
            }
            "llama3" => (default.iter().map(|&f| llama3(f, scaling)).collect(), 1.0),
            "yarn" => yarn(&default, theta, scaling, config),
            other => panic!("the naive model knows no rope type {other}"),
        };
        Self {
            inv_freq,
            attention_factor,
        }
    }

    /// Rotates one head's vector in place.
    pub fn rotate(&self, vector: &mut [f64], position: usize) {
        let (first, second) = vector.split_at_mut(self.inv_freq.len());
        for ((a, b), inv_freq) in first.iter_mut().zip(second).zip(&self.inv_freq) {
            let (sin, cos) = (position as f64 * inv_freq).sin_cos();
            let (x, y) = (*a, *b);
            *a = (x * cos - y * sin) * self.attention_factor;
            *b = (y * cos + x * sin) * self.attention_factor;
        }
    }
}

/// Long wavelengths are stretched, short ones kept, those between interpolated.
fn llama3(inv_freq: f64, scaling: &Value) -> f64 {
    let factor = number(&scaling["factor"]);
    let (low, high) = (
        number(&scaling["low_freq_factor"]),
        number(&scaling["high_freq_factor"]),
    );
    let rotations = number(&scaling["original_max_position_embeddings"]) * inv_freq / TAU;
    let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
    kept * inv_freq + (1.0 - kept) * inv_freq / factor
}

/// YaRN ([Peng et al., 2023](https://arxiv.org/abs/2309.00071)): which channels are stretched
/// depends on how often they rotate within the original context.
fn yarn(default: &[f64], theta: f64, scaling: &Value, config: &Value) -> (Vec<f64>, f64) {
    let get = |key: &str| scaling.get(key).and_then(Value::as_f64);
    let factor = number(&scaling["factor"]);
    let original = get("original_max_position_embeddings")
        .unwrap_or_else(|| number(&config["max_position_embeddings"]));
    let dim = 2.0 * default.len() as f64;
    let channel_of =
        |rotations: f64| dim * (original / (rotations * TAU)).ln() / (2.0 * theta.ln());
    let mut low = channel_of(get("beta_fast").unwrap_or(32.0));
    let mut high = channel_of(get("beta_slow").unwrap_or(1.0));
    if scaling
        .get("truncate")
        .and_then(Value::as_bool)
        .unwrap_or(true)
    {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let stretched = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
    let inv_freq = default
        .iter()
        .enumerate()
        .map(|(i, f)| f / factor * stretched(i) + f * (1.0 - stretched(i)))
        .collect();

    let temperature = |mscale: f64| {
        if factor > 1.0 {
            0.1 * mscale * factor.ln() + 1.0
        } else {
            1.0
        }
    };
    let attention_factor =
        get("attention_factor").unwrap_or_else(|| match (get("mscale"), get("mscale_all_dim")) {
            (Some(mscale), Some(all)) => temperature(mscale) / temperature(all),
            _ => temperature(1.0),
        });
    (inv_freq, attention_factor)
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("a number was expected, found {value}"))
}
