use std::sync::LazyLock;

use rand::{SeedableRng, rngs::StdRng};

use super::*;

/// The same for all tests, as training it takes most of their time.
fn vocabulary() -> &'static Vocabulary {
    static TRAINED: LazyLock<Vocabulary> = LazyLock::new(|| Vocabulary::train(700, 7).unwrap());
    &TRAINED
}

fn recipe(passkey: f64, facts: f64, copies: f64) -> Recipe {
    Recipe {
        passkey,
        facts,
        copies,
        filler: 1.0,
    }
}

/// The texts of the answers of a document, their ends left out, with the text before each.
fn answers(vocabulary: &Vocabulary, document: &Document) -> Vec<(String, String)> {
    let mut answers = Vec::new();
    let mut index = 0;
    while index < document.ids.len() {
        if document.parts[index] != Part::Answer {
            index += 1;
            continue;
        }
        let length = document.parts[index..]
            .iter()
            .take_while(|part| **part == Part::Answer)
            .count();
        let range = index..index + length;
        // An answer that the end of the document cuts is not whole.
        if range.end < document.ids.len() {
            let answer = vocabulary.decode(&document.ids[range.clone()]).unwrap();
            let before = vocabulary.decode(&document.ids[..index]).unwrap();
            answers.push((answer, before));
        }
        index = range.end;
    }
    answers
}

#[test]
fn documents_have_the_length_that_was_asked_for_and_one_part_per_token() {
    let vocabulary = vocabulary();
    let mut rng = StdRng::seed_from_u64(1);
    for recipe in [
        recipe(1.0, 0.0, 0.0),
        recipe(0.0, 1.0, 0.0),
        recipe(0.0, 0.0, 1.0),
        recipe(0.0, 0.0, 0.0),
    ] {
        for tokens in [64, 257, 1025] {
            let document = recipe.document(vocabulary, tokens, &mut rng).unwrap();
            assert_eq!(document.ids.len(), tokens);
            assert_eq!(document.parts.len(), tokens);
            assert_eq!(document.ids[0], vocabulary.begin());
            assert!(
                document
                    .joints
                    .iter()
                    .all(|joint| (1..tokens).contains(joint))
            );
            assert!(document.joints.is_sorted());
        }
    }
}

#[test]
fn every_answer_is_the_value_that_was_said_before() {
    let vocabulary = vocabulary();
    let mut rng = StdRng::seed_from_u64(2);
    for _ in 0..20 {
        let recipe = recipe(0.0, 1.0, 0.0);
        let document = recipe.document(vocabulary, 1025, &mut rng).unwrap();
        let answers = answers(vocabulary, &document);
        assert!(answers.len() > 3);
        for (answer, before) in answers {
            let value = answer.trim().trim_end_matches(['.', ';']);
            assert!(!value.is_empty());
            assert!(before.contains(&format!(" {value}")), "{value}: {before}");
        }
    }
}

#[test]
fn the_answer_to_the_passkey_question_is_the_pass_key() {
    let vocabulary = vocabulary();
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..20 {
        let recipe = recipe(1.0, 0.0, 0.0);
        let document = recipe.document(vocabulary, 513, &mut rng).unwrap();
        let answers = answers(vocabulary, &document);
        assert!(!answers.is_empty());
        for (answer, before) in answers {
            let (_, rest) = before.split_once("The pass key is ").unwrap();
            let (value, _) = rest.split_once('.').unwrap();
            assert_eq!(answer, format!(" {value}."));
            assert!(before.ends_with("What is the pass key? The pass key is"));
        }
    }
}

#[test]
fn copies_repeat_the_text_before_them() {
    let vocabulary = vocabulary();
    let mut rng = StdRng::seed_from_u64(4);
    let recipe = recipe(0.0, 0.0, 1.0);
    let document = recipe.document(vocabulary, 513, &mut rng).unwrap();
    let ids = document.ids.iter().zip(&document.parts);
    let copied = ids
        .clone()
        .filter(|(_, part)| **part == Part::Copy)
        .map(|(id, _)| *id)
        .collect::<Vec<_>>();
    assert!(copied.len() > 50);
    let first = ids
        .take_while(|(_, part)| **part != Part::Copy)
        .map(|(id, _)| *id)
        .collect::<Vec<_>>();
    let length = document.parts[first.len()..]
        .iter()
        .take_while(|part| **part == Part::Copy)
        .count();
    let copy = &document.ids[first.len()..first.len() + length];
    assert!(first.windows(length).any(|window| window == copy));
}

#[test]
fn stretches_of_text_are_encoded_as_the_whole_text_is() {
    let vocabulary = vocabulary();
    let mut rng = StdRng::seed_from_u64(5);
    for recipe in [
        recipe(1.0, 0.0, 0.0),
        recipe(0.0, 1.0, 0.0),
        recipe(0.0, 0.0, 1.0),
    ] {
        let document = recipe.document(vocabulary, 400, &mut rng).unwrap();
        // The last sentence is cut in the middle of a word.
        let ids = &document.ids[1..380];
        let text = vocabulary.decode(ids).unwrap();
        assert_eq!(vocabulary.encode(&text).unwrap(), ids, "{text}");
    }
}

#[test]
fn digits_are_tokens_of_their_own_and_a_vocabulary_is_the_same_every_time() {
    let vocabulary = vocabulary();
    assert_eq!(vocabulary.encode("12345").unwrap().len(), 5);
    let text = "The pass key is 407. \u{e9}\n";
    let ids = vocabulary.encode(text).unwrap();
    assert_eq!(vocabulary.decode(&ids).unwrap(), text);
    let again = Vocabulary::train(700, 7).unwrap();
    assert_eq!(again.encode(text).unwrap(), ids);
}

#[test]
fn a_seed_makes_the_same_document() {
    let vocabulary = vocabulary();
    let make = |seed| {
        let mut rng = StdRng::seed_from_u64(seed);
        let recipe = recipe(0.3, 0.4, 0.2);
        recipe.document(vocabulary, 300, &mut rng).unwrap()
    };
    assert_eq!(make(6), make(6));
    assert_ne!(make(6), make(7));
}
