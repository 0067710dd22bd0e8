use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Grammar, GrammarSource};

/// Grammars that were compiled before: clients ask many times with the same schema.
pub(super) struct Cache {
    /// The one that was used last comes first.
    grammars: Mutex<VecDeque<(GrammarSource, Grammar)>>,
    /// How many at most. Each takes up to some megabytes.
    most: usize,
}

impl Cache {
    pub(super) fn new(most: usize) -> Self {
        Self {
            grammars: Mutex::default(),
            most,
        }
    }

    /// A grammar as it was when it was compiled: what answers learn of it stays with them, as it is bounded.
    pub(super) fn get(&self, source: &GrammarSource) -> Option<Grammar> {
        let mut grammars = self.lock();
        let place = grammars.iter().position(|(known, _)| known == source)?;
        let used = grammars.remove(place)?;
        let grammar = used.1.fresh();
        grammars.push_front(used);
        Some(grammar)
    }

    pub(super) fn insert(&self, source: &GrammarSource, grammar: &Grammar) {
        let mut grammars = self.lock();
        grammars.retain(|(known, _)| known != source);
        grammars.push_front((source.clone(), grammar.fresh()));
        grammars.truncate(self.most);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(GrammarSource, Grammar)>> {
        self.grammars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}
