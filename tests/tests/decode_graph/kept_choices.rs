//! Choices of pages that serve several steps: recorded steps read what unrecorded ones do. By a model whose steps are
//! kernels, which small devices record as well.

use quest_burn::{
    QuestConfig,
    policy::{PagePolicy, ReusePolicy},
};
use quest_burn_models::{generation::decode_graph, inference::InferenceLm};
use quest_burn_tests::devices::devices;

use super::{
    PAGE_SIZE, PER_RECORDING, PROMPTS, alone, graph_config, model, prefilled, prompt,
    tokens::assert_recorded, uncaptured,
};

/// The policy with a budget in pages.
pub(super) fn reuse(options: &str, pages: usize) -> Box<dyn PagePolicy> {
    let quest = QuestConfig::new().with_token_budget(pages * PAGE_SIZE);
    Box::new(ReusePolicy::new(quest, options.parse().unwrap(), PAGE_SIZE).unwrap())
}

#[test]
fn kept_choices_are_those_without_a_recording() {
    let _alone = alone();
    let prompts = [prompt(0, PROMPTS[0]), prompt(1, PROMPTS[1])];
    // Two recordings and a part of a third one.
    let steps = 2 * PER_RECORDING + 20;
    for test_device in devices() {
        let device = &test_device.device;
        let model = InferenceLm::from(model(device));
        // With 20 pages the first recording has room for no more than the budget, and reads everything.
        for (options, pages) in [("every=4", 5), ("every=7", 20), ("every=7,layers=2", 3)] {
            let policy = reuse(options, pages);
            for prompts in [&prompts[..1], &prompts] {
                let case = format!("{test_device}, {options}, {pages} pages, {}", prompts.len());
                let (mut plain, newest) = prefilled(&model, prompts, device);
                let expected = uncaptured(&model, &mut plain, &*policy, &newest, steps, device);
                let (mut cache, newest) = prefilled(&model, prompts, device);
                let graph = decode_graph(&model, &mut cache, &*policy, &newest, graph_config());
                let mut graph = graph.unwrap();
                assert_eq!(graph.run(steps).unwrap(), expected, "{case}");
                assert_recorded(&graph, &test_device, steps);
            }
        }
    }
}
