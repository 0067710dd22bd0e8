use quest_burn::cache::AssignedPages;
use quest_burn_models::generation::MIN_CHUNK;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    Event, FinishReason, LayerRead, Token, Usage,
    choose::Chooser,
    pages::{Origin, PageStore, Prefix},
};

/// A request that was taken on, and how far it is.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Prompt and answer.
    pub ids: Vec<u32>,
    pub prompt: usize,
    pub max_new_tokens: usize,
    pub stop_ids: Vec<u32>,
    pub chooser: Chooser,
    pub events: UnboundedSender<Event>,
    pub policy: usize,
    pub origin: Origin,
    /// Pages up to which the policy reads all; none where it always does.
    pub dense_pages: Option<usize>,
    pub watch: bool,
    /// Tokens of the prompt that were in the cache when it was taken on; none before.
    pub cached: Option<usize>,
    /// Tokens whose keys and values are in the pages.
    pub computed: usize,
    pub pages: Vec<u32>,
    /// Pages that were entered into the store, the first ones.
    pub entered: usize,
    /// The first page that not dense attention alone has made.
    pub first_sparse: Option<usize>,
    /// Pages that it needs while it waits, and after how many changes of the store that was.
    pub needs: Option<(u64, usize)>,
}

/// What a sequence is to be given next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Tokens that attend densely, all at once or in chunks.
    Prompt(usize),
    /// One token that attends by the policy.
    Decode,
}

impl Sequence {
    /// Tokens of the answer so far.
    pub(crate) fn new_tokens(&self) -> usize {
        self.ids.len() - self.prompt
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Where tokens that attend densely end. A sequence that gave its pages up computes its answer again
    /// as it did before: one by one where a policy chose what they attend to.
    fn prompt_end(&self) -> usize {
        match self.dense_pages {
            None => self.ids.len(),
            Some(_) => self.prompt,
        }
    }

    pub(crate) fn due(&self) -> Due {
        let is_newest = self.computed + 1 == self.ids.len() && self.new_tokens() > 0;
        match self.prompt_end().checked_sub(self.computed) {
            Some(left) if left > 0 && !is_newest => Due::Prompt(left),
            _ => Due::Decode,
        }
    }

    /// Whether logits are wanted after the tokens computed so far.
    pub(crate) fn is_level(&self) -> bool {
        self.computed == self.ids.len()
    }

    pub(crate) fn assigned(&self, new_tokens: usize) -> AssignedPages<'_> {
        AssignedPages {
            pages: &self.pages,
            length: self.computed,
            new_tokens,
        }
    }

    /// How many tokens to take from the cache: all it has, but that what is left of the prompt is not fed
    /// in fewer rows than prompts are, which may be multiplied in a coarser way.
    pub(crate) fn cached_prefix(&self, store: &PageStore) -> usize {
        let most = self.ids.len() - 1;
        let known = store.known(&self.ids[..most], self.origin);
        let end = self.prompt_end();
        let left = end.saturating_sub(known);
        match left == 0 || left >= MIN_CHUNK || (self.new_tokens() > 0 && known == most) {
            true => known,
            false => end.saturating_sub(MIN_CHUNK),
        }
    }

    /// Pages that it would take to begin, beyond those that others hold.
    pub(crate) fn needed(&mut self, store: &PageStore) -> usize {
        match self.needs {
            Some((changes, needed)) if changes == store.changes() => needed,
            _ => {
                let needed = store.needed(&self.ids, self.origin);
                self.needs = Some((store.changes(), needed));
                needed
            }
        }
    }

    /// Begins with pages that the store had.
    pub(crate) fn begin(&mut self, prefix: Prefix, page_size: usize) {
        debug_assert!(self.pages.is_empty() && self.computed == 0);
        self.entered = prefix.pages.len();
        self.computed = prefix.pages.len() * page_size;
        self.pages = prefix.pages;
        self.first_sparse = prefix.first_sparse;
    }

    /// Counts tokens in that a pass has computed, and enters the pages that are full now.
    pub(crate) fn advance(
        &mut self,
        due: Due,
        tokens: usize,
        store: &mut PageStore,
        page_size: usize,
    ) {
        let first = self.computed / page_size;
        self.computed += tokens;
        let reads_part = |most: usize| self.computed.div_ceil(page_size) > most;
        if due == Due::Decode && self.dense_pages.is_some_and(reads_part) {
            self.first_sparse.get_or_insert(first);
        }
        for place in self.entered..self.computed / page_size {
            self.enter(place, page_size, store);
            self.entered = place + 1;
        }
    }

    fn enter(&mut self, place: usize, page_size: usize, store: &mut PageStore) {
        let parent = place.checked_sub(1).map(|before| self.pages[before]);
        let is_sparse = self.first_sparse.is_some_and(|first| place >= first);
        let origin = match is_sparse {
            true => self.origin,
            false => Origin::Dense,
        };
        let end = self.computed.min((place + 1) * page_size);
        let ids = &self.ids[place * page_size..end];
        self.pages[place] = store.enter(self.pages[place], parent, origin, ids);
    }

    /// Gives all pages up, the last one with what is in it.
    pub(crate) fn release(&mut self, store: &mut PageStore, page_size: usize) {
        let last = self.computed / page_size;
        if !self.computed.is_multiple_of(page_size) && self.entered == last {
            self.enter(last, page_size, store);
        }
        store.release_all(&self.pages);
        self.needs = None;
        self.pages.clear();
        self.computed = 0;
        self.entered = 0;
        self.first_sparse = None;
    }

    /// Chooses the token that follows, tells who waits for it, and says why the answer has ended, if it has.
    pub(crate) fn choose(
        &mut self,
        logits: &mut [f32],
        reads: Vec<LayerRead>,
    ) -> Result<Option<FinishReason>, String> {
        let token = self.chooser.choose(logits, &self.stop_ids)?;
        Ok(self.push(Token { reads, ..token }))
    }

    /// Takes the token that follows.
    pub(crate) fn push(&mut self, token: Token) -> Option<FinishReason> {
        let id = token.id;
        self.ids.push(id);
        let _ = self.events.send(Event::Token(token));
        if self.stop_ids.contains(&id) || self.chooser.is_complete() {
            Some(FinishReason::Stop)
        } else if self.new_tokens() == self.max_new_tokens {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    pub(crate) fn finish(&self, reason: FinishReason) {
        let usage = Usage {
            prompt_tokens: self.prompt,
            cached_tokens: self.cached.unwrap_or(0),
            new_tokens: self.new_tokens(),
        };
        let _ = self.events.send(Event::Finished { reason, usage });
    }

    pub(crate) fn fail(&self, error: &str) {
        let error = error.to_owned();
        let _ = self.events.send(Event::Failed { error });
    }
}
