//! A conversation: its messages, and the session that holds their tokens.

use anyhow::bail;
use quest_burn::policy::PolicyConfig;
use quest_burn_models::{
    chat::Message,
    generation::{Finish, GenerateError, GenerationConfig, MIN_CHUNK, Timings, chunk_end},
    session::Session,
};
use serde::{Deserialize, Serialize};

use super::{interrupt::Interrupt, prompt::Prompter};
use crate::{
    failure::Failure,
    output::{Progress, Unit},
};

/// What `/save` writes and `/load` reads.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    pub messages: Vec<Message>,
}

/// An answer to a question.
pub(super) struct Answer {
    pub text: String,
    /// Tokens of the whole prompt, and those of them that the session held already.
    pub prompt_tokens: usize,
    pub reused_tokens: usize,
    pub new_tokens: usize,
    pub end: End,
    pub timings: Timings,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    Stop,
    Length,
    Interrupted,
}

/// A conversation with a model.
pub(super) struct Dialogue<'a> {
    session: Session,
    prompter: &'a Prompter,
    config: GenerationConfig,
    policy: PolicyConfig,
    messages: Vec<Message>,
    /// Documents in front of the next question.
    documents: Vec<String>,
    /// Answers so far, each of which has draws of its own.
    n_answers: u64,
}

impl<'a> Dialogue<'a> {
    pub(super) fn new(
        session: Session,
        prompter: &'a Prompter,
        config: GenerationConfig,
        policy: PolicyConfig,
    ) -> Self {
        Self {
            messages: prompter.system().into_iter().collect(),
            session,
            prompter,
            config,
            policy,
            documents: Vec::new(),
            n_answers: 0,
        }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    pub(super) fn policy(&self) -> &PolicyConfig {
        &self.policy
    }

    /// Decodes by another policy from the next token on.
    pub(super) fn set_policy(&mut self, policy: PolicyConfig) -> anyhow::Result<()> {
        let rope = Some(self.session.model().config().rope.clone());
        let page_size = self.session.cache().page_size();
        let made = policy.clone().with_rope(rope).init(page_size)?;
        self.session.set_policy(made.into());
        self.policy = policy;
        Ok(())
    }

    /// Forgets everything but what the model is told before all else.
    pub(super) fn reset(&mut self) {
        self.messages = self.prompter.system().into_iter().collect();
        self.documents.clear();
    }

    /// Forgets the last question and its answer.
    pub(super) fn undo(&mut self) -> anyhow::Result<()> {
        let question = self
            .messages
            .iter()
            .rposition(|message| message.role == "user");
        let Some(question) = question else {
            bail!("/undo: expected a question to forget, found none");
        };
        self.messages.truncate(question);
        Ok(())
    }

    /// Forgets the last answer. Its question is the last message then.
    pub(super) fn forget_answer(&mut self) -> anyhow::Result<()> {
        let question = self
            .messages
            .iter()
            .rposition(|message| message.role == "user");
        let Some(question) = question else {
            bail!("/retry: expected a question to answer again, found none");
        };
        self.messages.truncate(question + 1);
        Ok(())
    }

    pub(super) fn save(&self) -> Saved {
        Saved {
            messages: self.messages.clone(),
        }
    }

    pub(super) fn load(&mut self, saved: Saved) {
        self.messages = saved.messages;
        self.documents.clear();
    }

    pub(super) fn n_messages(&self) -> usize {
        self.messages.len()
    }

    /// Puts a document in front of the next question; says how many tokens it has.
    pub(super) fn add_document(&mut self, name: &str, text: &str) -> anyhow::Result<usize> {
        let tokens = self.prompter.count(text)?;
        self.documents.push(format!("{name}:\n\n{text}\n\n"));
        Ok(tokens)
    }

    /// Adds a question, which is to be [answered](Self::answer).
    pub(super) fn ask(&mut self, question: &str) {
        let text = self.documents.drain(..).collect::<String>() + question;
        self.messages.push(Message::user(text));
    }

    /// Answers the last message. `show` is given the text as it comes.
    ///
    /// A question without an answer is forgotten: where there is no room for one, and where it was
    /// interrupted before it began.
    pub(super) fn answer(
        &mut self,
        interrupt: &Interrupt,
        show: &mut dyn FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Answer, Failure> {
        let answered = self.try_answer(interrupt, show);
        match &answered {
            Ok(answer) if !answer.text.is_empty() || answer.end != End::Interrupted => {
                self.messages.push(Message::assistant(&*answer.text));
            }
            _ => {
                self.messages.pop();
            }
        }
        answered
    }

    fn try_answer(
        &mut self,
        interrupt: &Interrupt,
        show: &mut dyn FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Answer, Failure> {
        let ids = self.prompter.ids(&self.messages)?;
        let mut config = self.config.clone();
        let room = self.session.capacity().saturating_sub(ids.len());
        // At least one, so that a conversation without room for it is refused.
        config.max_new_tokens = config.max_new_tokens.min(room.max(1));
        config.sampling.seed = config.sampling.seed.wrapping_add(self.n_answers);
        self.n_answers += 1;
        config.check(&ids, self.session.model().model().vocab_size())?;

        interrupt.take();
        let mut reused = self.session.align(&ids)?;
        // Where a prompt is kept whole its end is fed again, as much as the first time.
        if ids.len() - reused < MIN_CHUNK {
            reused = ids.len().saturating_sub(MIN_CHUNK);
            self.session.truncate(reused)?;
        }
        let mut answer = Answer {
            text: String::new(),
            prompt_tokens: ids.len(),
            reused_tokens: reused,
            new_tokens: 0,
            end: End::Interrupted,
            timings: Timings::default(),
        };
        // All but the last part, so that this stays when Ctrl-C is pressed in the last one. Tokens leave by what
        // they are worth to a prompt's last token, so such prompts have one part, which is given up as a whole.
        let start = std::time::Instant::now();
        let (chunk, new) = (config.prefill_chunk, &ids[reused..]);
        let part = match self.session.model().prefill().lazy() {
            Some(_) => new.len(),
            None => chunk,
        };
        let mut done = 0;
        let mut progress = Progress::new("prefill", Unit::Tokens, new.len() as u64);
        loop {
            let end = chunk_end(done, new.len(), part);
            if end == new.len() {
                break;
            }
            self.session.prefill(&new[done..end], chunk, &mut |_| ())?;
            done = end;
            progress.set(done as u64);
            if interrupt.take() {
                return Ok(answer);
            }
        }
        let before = start.elapsed();
        let mut progress = Some(progress);
        let mut stream = self
            .session
            .generate_ids(&new[done..], config)?
            .on_prefill(|fed| {
                if let Some(progress) = &mut progress {
                    progress.set((done + fed) as u64);
                }
                if done + fed == new.len() {
                    progress = None;
                }
            })
            .stop_prefill_when(|| interrupt.take())
            .into_text()?;
        loop {
            let piece = match stream.next().transpose() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(GenerateError::Stopped) => return Ok(answer),
                Err(error) => return Err(error.into()),
            };
            show(&piece)?;
            answer.text += &piece;
            if interrupt.take() {
                answer.new_tokens = stream.new_ids().len();
                answer.timings = stream.timings();
                return Ok(answer);
            }
        }
        answer.end = match stream.finish() {
            Some(Finish::Stop) => End::Stop,
            Some(Finish::Length) | None => End::Length,
        };
        answer.new_tokens = stream.new_ids().len();
        answer.timings = stream.timings();
        answer.timings.prefill_tokens += done;
        answer.timings.prefill += before;
        Ok(answer)
    }
}
