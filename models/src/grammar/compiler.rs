use core::fmt;
use std::{sync::Arc, thread};

use llguidance::{
    JsonCompileOptions, Logger, Matcher, ParserFactory,
    api::{GrammarInit, TopLevelGrammar},
};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv};

use super::{
    Grammar, GrammarError, GrammarLimits, GrammarSource,
    matcher::in_short,
    vocabulary::{token_bytes, tree},
};
use crate::{sampling::TokenMask, tokenizer::Tokenizer};

/// White space between the parts of JSON. Unbounded, it is what small models never come out of.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// Stack of a thread that compiles. What is not used of it takes no memory.
const STACK: usize = 512 << 20;

/// Field of a schema with options for the compiler.
const OPTIONS: &str = "x-guidance";

/// Compiles grammars for the tokens of a model. Clones share what it holds.
#[derive(Clone)]
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
    limits: GrammarLimits,
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
        })
    }

    /// The same with other limits.
    pub fn with_limits(self, limits: GrammarLimits) -> Self {
        Self { limits, ..self }
    }

    /// Compiles a source, on a thread of its own: how deep the compiler goes depends on the source.
    ///
    /// # Errors
    ///
    /// When the source makes no sense, uses what is not supported, or is beyond the limits.
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
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
        let grammar = match source {
            GrammarSource::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
            GrammarSource::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            GrammarSource::JsonObject => json(json!({ "type": "object" })),
            GrammarSource::JsonSchema(schema) => json(schema.clone()),
        };
        let parser = self.factory.create_parser_from_init_ext(
            GrammarInit::Serialized(grammar),
            Logger::new(0, 0),
            InferenceCapabilities::default(),
            self.limits.parser(),
        );
        let parser = parser.map_err(|error| refused(kind, in_short(&error)))?;
        let grammar = Grammar::new(Matcher::new(Ok(parser)));
        // What fails at once is refused, and the first answer does not wait for the first mask.
        let first = grammar.matcher().allowed();
        first.map_err(|error| refused(kind, error))?;
        Ok(grammar)
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

fn refused(kind: &'static str, problem: String) -> GrammarError {
    const LIMITS: [&str; 6] = [
        "too complex",
        "too large",
        "too big",
        "too many",
        "fuel",
        "limit",
    ];
    match LIMITS.iter().any(|word| problem.contains(word)) {
        true => GrammarError::TooComplex { kind, problem },
        false => GrammarError::Invalid { kind, problem },
    }
}
