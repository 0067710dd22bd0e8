use core::{any::Any, fmt::Debug};
use std::sync::Arc;

/// What a policy remembers of a sequence in a layer from one decode step to the next.
pub trait PolicyState: Any + Debug + Send + Sync {}

impl<T: Any + Debug + Send + Sync> PolicyState for T {}

/// The states that policies have left, one for each sequence of a layer.
///
/// They live in the cache, not in the policy, because truncating or releasing a sequence has to
/// forget them: what it still holds then counts as a prompt.
#[derive(Clone, Debug, Default)]
pub struct PolicyStates {
    of_sequence: Vec<Option<Arc<dyn PolicyState>>>,
}

impl PolicyStates {
    /// The state of a sequence, unless there is none or it is another policy's.
    pub fn get<T: PolicyState>(&self, sequence: usize) -> Option<&T> {
        let state: &dyn Any = &**self.of_sequence.get(sequence)?.as_ref()?;
        state.downcast_ref()
    }

    /// Remembers a state in place of the one before.
    pub fn set<T: PolicyState>(&mut self, sequence: usize, state: T) {
        if self.of_sequence.len() <= sequence {
            self.of_sequence.resize(sequence + 1, None);
        }
        self.of_sequence[sequence] = Some(Arc::new(state));
    }

    /// Forgets the state of a sequence.
    pub fn forget(&mut self, sequence: usize) {
        if let Some(state) = self.of_sequence.get_mut(sequence) {
            *state = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_by_its_type_and_sequence_until_it_is_forgotten() {
        let mut states = PolicyStates::default();
        assert_eq!(states.get::<u8>(1), None);
        states.set(1, 7u8);
        assert_eq!(states.get::<u8>(1), Some(&7));
        assert_eq!(states.get::<u8>(0), None);
        assert_eq!(states.get::<u16>(1), None, "left by another policy");
        states.forget(1);
        states.forget(5);
        assert_eq!(states.get::<u8>(1), None);
    }
}
