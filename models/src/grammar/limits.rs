use std::time::Duration;

use llguidance::api::ParserLimits;

/// What a grammar and its masks may take. The default is meant for grammars of strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrammarLimits {
    /// Bytes of a source.
    pub max_bytes: usize,
    /// Levels of a source within each other: brackets of any kind.
    pub max_depth: usize,
    /// Symbols of the compiled grammar, in all places where they are.
    pub max_symbols: usize,
    /// Names, texts and signs of the rules of a grammar: each is looked for among all others that may come
    /// at one place.
    pub max_rule_items: usize,
    /// Branches of regular expressions that the next byte decides between, in all parts of a source. They
    /// are what one step may take, and steps are counted afterwards.
    pub max_branches: usize,
    /// Steps of compiling regular expressions, of which 50,000 take a millisecond, a hundred times as long
    /// at worst.
    pub compile_steps: u64,
    /// Steps of regular expressions for one mask; about 14,000 take a millisecond.
    pub mask_steps: u64,
    /// Items of the parser for one mask; about 20,000 take a millisecond.
    pub mask_items: usize,
    /// Time of one mask, or of taking note of one token: what an item takes is not bounded by their number.
    pub mask_time: Duration,
    /// States of regular expressions, of a kilobyte or two each, that the answers of a grammar share.
    pub max_states: usize,
}

impl Default for GrammarLimits {
    fn default() -> Self {
        Self {
            max_bytes: 128 << 10,
            max_depth: 64,
            max_symbols: 60_000,
            max_rule_items: 8_000,
            max_branches: 200_000,
            compile_steps: 300_000,
            mask_steps: 100_000,
            mask_items: 50_000,
            mask_time: Duration::from_millis(500),
            max_states: 50_000,
        }
    }
}

impl GrammarLimits {
    pub(super) fn parser(&self) -> ParserLimits {
        ParserLimits {
            initial_lexer_fuel: self.compile_steps,
            step_lexer_fuel: self.mask_steps,
            step_max_items: self.mask_items,
            max_lexer_states: self.max_states,
            max_grammar_size: self.max_symbols,
            // Errors are for users, not for authors of parsers.
            verbose_errors: false,
            ..ParserLimits::default()
        }
    }
}
