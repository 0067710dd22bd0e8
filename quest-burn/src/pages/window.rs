use burn::config::Config;

/// Which of the tokens before it a token sees, where it does not see all of them.
#[derive(Config, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The newest, itself among them: a sliding window.
    Sliding {
        /// How many.
        tokens: usize,
    },
    /// Those of its own chunk, in the chunks of so many tokens that a text is cut into.
    Chunk {
        /// How many.
        tokens: usize,
    },
}

impl Window {
    /// Tokens that a token sees at most.
    pub fn tokens(self) -> usize {
        let (Self::Sliding { tokens } | Self::Chunk { tokens }) = self;
        tokens
    }

    /// Position of the first token that the one at `position` sees.
    pub fn first(self, position: usize) -> usize {
        match self {
            Self::Sliding { tokens } => (position + 1).saturating_sub(tokens),
            Self::Chunk { tokens } => position / tokens * tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_slide_and_chunks_begin_anew() {
        let sliding = Window::Sliding { tokens: 4 };
        let chunk = Window::Chunk { tokens: 4 };
        let first = |window: Window| [0, 3, 4, 7, 8].map(|position| window.first(position));
        assert_eq!(first(sliding), [0, 0, 1, 4, 5]);
        assert_eq!(first(chunk), [0, 0, 4, 4, 8]);
    }
}
