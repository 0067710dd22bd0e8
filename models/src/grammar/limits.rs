use llguidance::api::ParserLimits;

/// What a grammar and its masks may take. The default is meant for grammars of strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrammarLimits {
    /// Bytes of a source.
    pub max_bytes: usize,
    /// Levels of a source within each other: brackets of any kind.
    pub max_depth: usize,
    /// Symbols of the compiled grammar.
    pub max_symbols: usize,
    /// Steps of compiling regular expressions; about 50,000 take a millisecond.
    pub compile_steps: u64,
    /// Steps of regular expressions for one mask; about 14,000 take a millisecond.
    pub mask_steps: u64,
    /// Items of the parser for one mask; about 20,000 take a millisecond.
    pub mask_items: usize,
    /// States of regular expressions, of a kilobyte or two each, that the answers of a grammar share.
    pub max_states: usize,
}

impl Default for GrammarLimits {
    fn default() -> Self {
        Self {
            max_bytes: 128 << 10,
            max_depth: 64,
            max_symbols: 200_000,
            compile_steps: 1_000_000,
            mask_steps: 100_000,
            mask_items: 50_000,
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
