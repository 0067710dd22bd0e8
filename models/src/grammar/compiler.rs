use core::fmt;
use std::{sync::Arc, thread};

use llguidance::{
    JsonCompileOptions, Logger, Matcher, ParserFactory,
    api::{GrammarInit, TopLevelGrammar},
    earley::Grammar as Rules,
};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv};

use super::{
    Grammar, GrammarError, GrammarLimits, GrammarSource,
    bounds::{self, Beyond, Branches},
    cache::Cache,
    matcher::in_short,
    vocabulary::{token_bytes, tree},
};
use crate::{sampling::TokenMask, tokenizer::Tokenizer};

/// White space between the parts of JSON. Unbounded, it is what small models never come out of.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// Stack of a thread that compiles. What is not used of it takes no memory.
const STACK: usize = 512 << 20;

/// Grammars that are kept for sources that come again.
const KEPT: usize = 16;

/// Field of a schema with options for the compiler.
const OPTIONS: &str = "x-guidance";

/// Compiles grammars for the tokens of a model. Clones share what it holds.
#[derive(Clone)]
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    limits: GrammarLimits,
    pub(super) cache: Arc<Cache>,
}

impl GrammarCompiler {
    /// A compiler for a model of `vocab_size` tokens, of which `stop_ids` end an answer. It reads the whole
    /// vocabulary, which takes a moment.
    ///
    /// # Errors
    ///
    /// When the bytes of the tokens cannot be told.
    pub fn new(
        tokenizer: &Tokenizer,
        vocab_size: usize,
        stop_ids: &[u32],
    ) -> Result<Self, GrammarError> {
        let tokens = token_bytes(tokenizer, vocab_size)?;
        // Which tokens a text is made of is the model's to choose.
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(tree(tokens, stop_ids)));
        let factory = ParserFactory::new_simple(&env)
            .map_err(|error| GrammarError::Tokenizer(in_short(&error)))?;
        Ok(Self {
            factory: Arc::new(factory),
            limits: GrammarLimits::default(),
            cache: Arc::new(Cache::new(KEPT)),
        })
    }

    /// The same with other limits.
    pub fn with_limits(self, limits: GrammarLimits) -> Self {
        Self {
            limits,
            cache: Arc::new(Cache::new(KEPT)),
            ..self
        }
    }

    /// Compiles a source, on a thread of its own: how deep the compiler goes depends on the source. The
    /// sources that were compiled last are kept.
    ///
    /// # Errors
    ///
    /// When the source makes no sense, uses what is not supported, or is beyond the limits.
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        if let Some(grammar) = self.cache.get(source) {
            return Ok(grammar);
        }
        let grammar = self.compile_anew(source)?;
        self.cache.insert(source, &grammar);
        Ok(grammar)
    }

    fn compile_anew(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        self.check(source)?;
        let failed = |problem: String| GrammarError::TooComplex {
            kind: source.kind(),
            problem,
        };
        thread::scope(|scope| {
            let builder = thread::Builder::new().name("quest-grammar".to_owned());
            let compiles = builder.stack_size(STACK);
            let compiles = compiles
                .spawn_scoped(scope, || self.compile_here(source))
                .map_err(|error| failed(format!("the system gives no thread: {error}")))?;
            compiles
                .join()
                .unwrap_or_else(|_| Err(failed("the compiler panicked".to_owned())))
        })
    }

    fn compile_here(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        let kind = source.kind();
        bounds::check_source(source, &self.limits).map_err(|beyond| beyond_limits(kind, beyond))?;
        let grammar = match source {
            GrammarSource::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            GrammarSource::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            GrammarSource::JsonObject => json(json!({ "type": "object" })),
            GrammarSource::JsonSchema(schema) => json(schema.clone()),
        };
        let grammar = self.lowered(kind, GrammarInit::Serialized(grammar))?;
        let parser = self.factory.create_parser_from_init_ext(
            grammar,
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            self.limits.parser(),
        );
        let parser = parser.map_err(|error| refused(kind, in_short(&error)))?;
        let grammar = Grammar::new(Matcher::new(Ok(parser)), self.limits.mask_time);
        // What fails at once is refused, and the first answer does not wait for the first mask.
        let first = grammar.matcher().allowed();
        first.map_err(|error| refused(kind, error))?;
        Ok(grammar)
    }

    /// Rules and regular expressions of a source, where they are few and simple enough.
    fn lowered(
        &self,
        kind: &'static str,
        grammar: GrammarInit,
    ) -> Result<GrammarInit, GrammarError> {
        let env = self.factory.tok_env().clone();
        let lowered = grammar.to_internal(Some(env), self.limits.parser());
        let (rules, lexemes) = lowered.map_err(|error| refused(kind, in_short(&error)))?;
        let (most, found) = (self.limits.max_symbols, symbols(&rules));
        if found.is_none_or(|found| found > most) {
            let found = found.map_or("an unknown number".to_owned(), |found| found.to_string());
            let problem = format!("expected at most {most} symbols of rules, found {found}");
            return Err(GrammarError::TooComplex { kind, problem });
        }
        let branches = Branches::of(lexemes.regex_builder.exprset());
        let checked = branches.check(&self.limits);
        checked.map_err(|beyond| beyond_limits(kind, beyond))?;
        Ok(GrammarInit::Internal(rules, lexemes))
    }

    fn check(&self, source: &GrammarSource) -> Result<(), GrammarError> {
        let kind = source.kind();
        let text = match source {
            GrammarSource::JsonObject => return Ok(()),
            GrammarSource::JsonSchema(schema) => &schema.to_string(),
            GrammarSource::Regex(text) | GrammarSource::Lark(text) => text,
        };
        let max = self.limits.max_bytes;
        if text.len() > max {
            let found = text.len();
            return Err(GrammarError::Size { kind, max, found });
        }
        let max = self.limits.max_depth;
        match depth(text) > max {
            true => Err(GrammarError::Depth { kind, max }),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// How deep brackets are within each other, also those that a text only mentions: a bound, not a parser.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn json(schema: Value) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_options(schema))
}

/// A schema with the options of this crate where it has none of its own.
pub(super) fn with_options(mut schema: Value) -> Value {
    if schema == Value::Bool(true) {
        schema = Value::Object(serde_json::Map::new());
    }
    let Some(fields) = schema.as_object_mut() else {
        // The compiler says what is wrong with it.
        return schema;
    };
    // By an older draft the compiler would pass over keywords that are of newer ones.
    fields.remove("$schema");
    let default = JsonCompileOptions {
        coerce_one_of: true,
        whitespace_pattern: Some(WHITE_SPACE.to_owned()),
        ..JsonCompileOptions::default()
    };
    let default = serde_json::to_value(default).expect("options have string keys only");
    match fields.get_mut(OPTIONS) {
        None => {
            fields.insert(OPTIONS.to_owned(), default);
        }
        Some(Value::Object(options)) => {
            for (name, value) in default.as_object().into_iter().flatten() {
                options.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        Some(_) => (),
    }
    schema
}

/// Symbols of rules, each as often as it is in one, if the compiler tells of them as it does in this version.
fn symbols(rules: &Rules) -> Option<usize> {
    // Nothing else tells of them: "1 terminals; 3 non-terminals with 4 rules with 9 symbols".
    let stats = rules.stats();
    stats
        .strip_suffix(" symbols")?
        .rsplit(' ')
        .next()?
        .parse()
        .ok()
}

fn beyond_limits(kind: &'static str, beyond: Beyond) -> GrammarError {
    match beyond {
        Beyond::Limit(problem) => GrammarError::TooComplex { kind, problem },
        Beyond::Unsupported(problem) => GrammarError::Invalid { kind, problem },
    }
}

fn refused(kind: &'static str, problem: String) -> GrammarError {
    const LIMITS: [&str; 8] = [
        "too complex",
        "too large",
        "too big",
        "too many",
        "Too many",
        "max is",
        "fuel",
        "limit",
    ];
    match LIMITS.iter().any(|word| problem.contains(word)) {
        true => GrammarError::TooComplex { kind, problem },
        false => GrammarError::Invalid { kind, problem },
    }
}
