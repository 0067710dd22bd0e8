//! Prompts that leave tokens behind on their way through the layers.

use core::{fmt, ops::Range};

use burn::config::Config;

use super::PrefillConfigError;
use crate::FixedPoint;

/// Most queries that say what a token is worth.
const MAX_QUERIES: usize = 16;

/// Where the tokens of a prompt leave, and which
/// ([LazyLLM](https://arxiv.org/abs/2407.14057)): after some layers, those to which the prompt's last token pays the
/// least attention. Later layers neither compute nor hold them.
///
/// A token's worth is the attention that it receives, mean over the heads of the layer after which it may leave; of
/// equal ones the earlier leaves. Decoded tokens never leave.
#[derive(Config, Debug, PartialEq, Eq)]
pub struct LazyPrefillConfig {
    /// Layers after which tokens leave, counted from 1, ascending; at 0.3, 0.6 and 0.9 of the depth when none is
    /// given.
    #[config(default = "Vec::new()")]
    pub layers: Vec<usize>,
    /// Share of the tokens that leave after each of these layers, rounded down to whole tokens, of those that are
    /// still there: one for all of them, or one for each. From 0 to below 1.
    #[config(default = "vec![LazyPrefillConfig::RATE]")]
    pub rates: Vec<FixedPoint>,
    /// Last tokens of the prompt whose attention counts, in their mean, as far as its last chunk has them: 1 (the
    /// paper's) to 16.
    #[config(default = 1)]
    pub queries: usize,
    /// First tokens of the text that stay whatever they are worth.
    #[config(default = 0)]
    pub keep_first: usize,
    /// Last tokens of the prompt that stay whatever they are worth, at least 1.
    #[config(default = 1)]
    pub keep_last: usize,
    /// Share of the tokens that a decode step does not need, from 0 to below 1: the others, by the attention that
    /// the decoded token pays them where tokens leave, are computed in the layers behind where they were left out.
    /// None where what has left does not come back.
    pub revival: Option<FixedPoint>,
}

/// Adjacent layers that compute the same tokens of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LazyStage {
    /// The layers, counted from 0.
    pub layers: Range<usize>,
    /// Share of the tokens of the stage before that leave before this one.
    pub rate: FixedPoint,
}

impl LazyPrefillConfig {
    /// The share that leaves where nothing else is asked for: that of the paper's Figure 4.
    pub const RATE: FixedPoint = FixedPoint::of_millionths(300_000);

    /// The stages of a model with so many layers behind its first one, which computes every token.
    ///
    /// # Errors
    ///
    /// When the model has no such layers, or the values make no sense together.
    pub fn later_stages(&self, n_layers: usize) -> Result<Vec<LazyStage>, PrefillConfigError> {
        let after = self.layers_of(n_layers)?;
        let rates = match self.rates[..] {
            [rate] => vec![rate; after.len()],
            _ => self.rates.clone(),
        };
        if rates.len() != after.len() {
            return Err(PrefillConfigError::LazyRates {
                layers: after.len(),
                rates: rates.len(),
            });
        }
        let ends = after.iter().skip(1).copied().chain([n_layers]);
        let layers = after.iter().zip(ends).map(|(&start, end)| start..end);
        let stages = layers.zip(rates);
        Ok(stages
            .map(|(layers, rate)| LazyStage { layers, rate })
            .collect())
    }

    /// The layers after which tokens leave.
    fn layers_of(&self, n_layers: usize) -> Result<Vec<usize>, PrefillConfigError> {
        if n_layers < 2 {
            return Err(PrefillConfigError::LazyDepth(n_layers));
        }
        if self.layers.is_empty() {
            let mut layers = [3, 6, 9].map(|tenths| tenths * n_layers / 10).to_vec();
            layers.retain(|&layer| layer > 0);
            layers.dedup();
            return Ok(layers);
        }
        let is_ascending = self.layers.windows(2).all(|pair| pair[0] < pair[1]);
        let mut layers = self.layers.iter();
        match is_ascending && layers.all(|layer| (1..n_layers).contains(layer)) {
            true => Ok(self.layers.clone()),
            false => Err(PrefillConfigError::LazyLayers {
                most: n_layers - 1,
                found: joined(&self.layers, ", "),
            }),
        }
    }

    /// Checks what does not depend on a model.
    ///
    /// # Errors
    ///
    /// See [`PrefillConfigError`].
    pub fn validate(&self) -> Result<(), PrefillConfigError> {
        let mut rates = self.rates.iter().chain(&self.revival);
        if let Some(&rate) = rates.find(|&&rate| f64::from(rate) >= 1.0) {
            return Err(PrefillConfigError::LazyRate(rate));
        }
        if !(1..=MAX_QUERIES).contains(&self.queries) {
            return Err(PrefillConfigError::LazyQueries {
                most: MAX_QUERIES,
                found: self.queries,
            });
        }
        match self.keep_last {
            0 => Err(PrefillConfigError::LazyLast),
            _ => Ok(()),
        }
    }

    /// All settings.
    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layers = match self.layers.is_empty() {
            true => "0.3+0.6+0.9".to_owned(),
            false => joined(&self.layers, "+"),
        };
        let rates = joined(&self.rates, "+");
        write!(f, "lazy:layers={layers},rates={rates}")?;
        write!(f, ",queries={}", self.queries)?;
        write!(f, ",first={},last={}", self.keep_first, self.keep_last)?;
        match self.revival {
            None => f.write_str(",revive=off"),
            Some(rate) => write!(f, ",revive={rate}"),
        }
    }
}

fn joined(values: &[impl fmt::Display], by: &str) -> String {
    let values = values.iter().map(ToString::to_string);
    values.collect::<Vec<_>>().join(by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PrefillConfig;

    fn after(config: &LazyPrefillConfig, n_layers: usize) -> Vec<usize> {
        let stages = config.later_stages(n_layers).unwrap();
        stages.iter().map(|stage| stage.layers.start).collect()
    }

    fn rate(text: &str) -> FixedPoint {
        text.parse().unwrap()
    }

    #[test]
    fn tokens_leave_where_the_paper_s_figures_say() {
        let config = LazyPrefillConfig::new();
        assert_eq!(after(&config, 32), [9, 19, 28]);
        assert_eq!(after(&config, 30), [9, 18, 27]);
        assert_eq!(after(&config, 6), [1, 3, 5]);
        assert_eq!(after(&config, 2), [1]);
        let stages = config.later_stages(32).unwrap();
        assert_eq!(stages[2].layers, 28..32);
        assert!(stages.iter().all(|stage| stage.rate == rate("0.3")));
    }

    #[test]
    fn every_layer_after_which_tokens_leave_may_have_its_own_rate() {
        let config = LazyPrefillConfig::new()
            .with_layers(vec![2, 5])
            .with_rates(vec![rate("0.5"), rate("0")]);
        let expected = [(2..5, rate("0.5")), (5..8, rate("0"))];
        let expected = expected.map(|(layers, rate)| LazyStage { layers, rate });
        assert_eq!(config.later_stages(8).unwrap(), expected);
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let config = LazyPrefillConfig::new();
        config.validate().unwrap();
        for (config, message) in [
            (
                config.clone().with_rates(vec![rate("0.5"), rate("1")]),
                "lazy prompts: expected a share from 0 to below 1 that leaves, found 1",
            ),
            (
                config.clone().with_revival(Some(rate("1.5"))),
                "lazy prompts: expected a share from 0 to below 1 that leaves, found 1.5",
            ),
            (
                config.clone().with_queries(0),
                "lazy prompts: expected 1 to 16 last tokens whose attention counts, found 0",
            ),
            (
                config.clone().with_queries(17),
                "lazy prompts: expected 1 to 16 last tokens whose attention counts, found 17",
            ),
            (
                config.clone().with_keep_last(0),
                "lazy prompts: expected at least 1 last token that stays, found 0",
            ),
        ] {
            assert_eq!(config.validate().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn layers_that_a_model_does_not_have_are_refused() {
        let refused = |config: &LazyPrefillConfig, n_layers, message: &str| {
            let error = config.later_stages(n_layers).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        let config = LazyPrefillConfig::new();
        refused(
            &config,
            1,
            "lazy prompts: expected a model with at least 2 layers, found 1",
        );
        for (layers, found) in [(vec![3, 3], "3, 3"), (vec![0], "0"), (vec![2, 4], "2, 4")] {
            let message = format!(
                "lazy prompts: expected ascending layers from 1 to 3 after which tokens leave, found {found}"
            );
            refused(&config.clone().with_layers(layers), 4, &message);
        }
        for rates in [vec![], vec![rate("0.1"); 2]] {
            let message = format!(
                "lazy prompts: expected one rate, or 3 for as many layers after which tokens leave, found {}",
                rates.len()
            );
            refused(&config.clone().with_rates(rates), 32, &message);
        }
    }

    #[test]
    fn a_configuration_is_written_with_its_settings() {
        let config = LazyPrefillConfig::new();
        let written = |config: &LazyPrefillConfig| PrefillConfig::Lazy(config.clone()).to_string();
        assert_eq!(
            written(&config),
            "lazy:layers=0.3+0.6+0.9,rates=0.3,queries=1,first=0,last=1,revive=off"
        );
        let config = config
            .with_layers(vec![4, 9])
            .with_rates(vec![rate("0.5"), rate("0.25")])
            .with_revival(Some(rate("0.3")));
        assert_eq!(
            written(&config),
            "lazy:layers=4+9,rates=0.5+0.25,queries=1,first=0,last=1,revive=0.3"
        );
    }
}
