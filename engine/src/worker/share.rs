//! How the tokens of a step are shared out among prompts.

use quest_burn_models::generation::MIN_CHUNK;

/// How many of `left` tokens each prompt is given, the oldest of which comes first. It gets half of them at
/// least, so that it ends however many short ones come; the others follow by what is left of them, so that
/// short ones do not wait for long ones.
pub(super) fn shares_of(prompts: &[usize], left: usize) -> Vec<usize> {
    let mut shares = vec![0; prompts.len()];
    let Some((&oldest, others)) = prompts.split_first() else {
        return shares;
    };
    let half = chunk(oldest, (left / 2).max(MIN_CHUNK));
    let mut rest = left - half;
    let mut shortest = (1..=others.len()).collect::<Vec<_>>();
    shortest.sort_by_key(|&place| prompts[place]);
    for place in shortest {
        shares[place] = chunk(prompts[place], rest);
        rest -= shares[place];
    }
    shares[0] = chunk(oldest, half + rest);
    shares
}

/// Tokens of `prompt` ones that a step with `left` tokens takes. Neither they nor those that stay are so few
/// that their rows may be multiplied in a coarser way than those of prompts, as far as that is possible.
pub(super) fn chunk(prompt: usize, left: usize) -> usize {
    match prompt.checked_sub(left) {
        None | Some(0) => prompt,
        Some(_) if left < MIN_CHUNK => 0,
        Some(rest) if rest < MIN_CHUNK && left >= 2 * MIN_CHUNK => prompt - MIN_CHUNK,
        Some(_) => left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_prompts_go_beside_the_oldest_one() {
        assert_eq!(shares_of(&[], 512), [0; 0]);
        assert_eq!(shares_of(&[1000], 512), [512]);
        assert_eq!(shares_of(&[1000, 300, 20], 512), [256, 236, 20]);
        assert_eq!(shares_of(&[1000, 30, 20], 512), [462, 30, 20]);
        assert_eq!(shares_of(&[10, 3000, 20], 512), [10, 482, 20]);
        assert_eq!(shares_of(&[1000, 2000], 32), [16, 16]);
        assert_eq!(shares_of(&[1000, 8, 9, 200], 40), [23, 8, 9, 0]);
    }

    #[test]
    fn prompts_are_not_fed_in_a_few_tokens() {
        assert_eq!(chunk(7, 512), 7);
        assert_eq!(chunk(512, 512), 512);
        assert_eq!(chunk(1000, 512), 512);
        assert_eq!(chunk(513, 512), 497);
        assert_eq!(chunk(100, 15), 0);
        assert_eq!(chunk(20, 16), 16, "no way to avoid it");
    }
}
