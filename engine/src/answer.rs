use tokio::sync::mpsc;

/// An answer on its way: the receiver of its [`Event`]s.
///
/// Tokens that nobody has taken yet are kept. Dropping it cancels the request: its pages are free again
/// within a step.
#[derive(Debug)]
pub struct Answer {
    events: mpsc::UnboundedReceiver<Event>,
}

impl Answer {
    pub(crate) fn new() -> (mpsc::UnboundedSender<Event>, Self) {
        let (sender, events) = mpsc::unbounded_channel();
        (sender, Self { events })
    }

    /// What comes next, for a task; none after the last event.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// What comes next, for a thread; none after the last event.
    ///
    /// # Panics
    ///
    /// When a task calls it, whose thread has others to run.
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }

    /// What is there already; none where nothing is.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }

    /// The receiver itself.
    pub fn into_receiver(self) -> mpsc::UnboundedReceiver<Event> {
        self.events
    }

    /// Waits for the whole answer, on a thread.
    ///
    /// # Errors
    ///
    /// When the answer failed: why.
    ///
    /// # Panics
    ///
    /// As [`blocking_next`](Self::blocking_next).
    pub fn wait(mut self) -> Result<Finished, String> {
        let mut tokens = Vec::new();
        loop {
            match self.blocking_next() {
                Some(Event::Token(token)) => tokens.push(token),
                Some(Event::Finished { reason, usage }) => {
                    return Ok(Finished {
                        tokens,
                        reason,
                        usage,
                    });
                }
                Some(Event::Failed { error }) => return Err(error),
                None => return Err("the engine has ended".to_owned()),
            }
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Its tokens, with the one that stopped it.
    pub tokens: Vec<Token>,
    /// Why it ended.
    pub reason: FinishReason,
    /// What it took.
    pub usage: Usage,
}

impl Finished {
    /// The ids of its tokens.
    pub fn ids(&self) -> Vec<u32> {
        self.tokens.iter().map(|token| token.id).collect()
    }
}

/// What happens to an answer. The last event is `Finished` or `Failed`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A new token.
    Token(Token),
    /// The end.
    Finished {
        /// Why it ended.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// The answer cannot be gone on with.
    Failed {
        /// Why not.
        error: String,
    },
}

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probability by the model, where log-probabilities were asked for.
    pub logprob: Option<f32>,
    /// The most probable tokens by the model, as many as were asked for, the most probable first.
    pub top: Vec<(u32, f32)>,
    /// What each layer read for it, where that was asked for. The first token of an answer follows a
    /// prompt, which reads everything; nothing is listed then.
    pub reads: Vec<LayerRead>,
}

/// What one layer read of a sequence for one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRead {
    /// The layer. Those with a sliding window are not listed.
    pub layer: usize,
    /// Pages by their places in the sequence, ascending, each that one head or more read; none where
    /// every page was read.
    pub pages: Option<Vec<u32>>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop id was chosen.
    Stop,
    /// As many tokens as were asked for.
    Length,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were in the cache.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub new_tokens: usize,
}
