//! Steps of a model that skips input channels: which ones is decided on the device, and so within a recording.

use quest_burn::{inference::WeightFormat, policy::DensePolicy};
use quest_burn_models::{
    activation_sparsity::{Calibration, calibrate},
    generation::decode_graph,
    inference::InferenceLm,
};
use quest_burn_tests::devices::devices;

use super::{
    PER_RECORDING, PROMPTS, alone, config,
    contents::assert_same_contents,
    graph_config, model, prefilled, prompt,
    tokens::{assert_recorded, records},
    uncaptured,
};

#[test]
fn tokens_of_a_model_that_skips_channels_are_those_without_a_recording() {
    let _alone = alone();
    let prompts = [prompt(0, PROMPTS[0])];
    // More than one recording.
    let steps = PER_RECORDING + 25;
    for test_device in devices() {
        let device = &test_device.device;
        if !records(&test_device) && test_device.name != "flex" {
            // Nothing is skipped there.
            continue;
        }
        for (format, rank) in [(WeightFormat::Full, 4), (WeightFormat::Int8, 0)] {
            let case = format!("{test_device}, {format}, rank {rank}");
            let model = InferenceLm::from(model(device));
            let calibration = Calibration {
                rank,
                ..Calibration::new(0.4)
            };
            let calibrated = calibrate(
                model.clone(),
                &config(),
                &prompt(1, 192),
                calibration,
                &mut |_| (),
            );
            let (sparsity, report) = calibrated.unwrap();
            assert!((report.skipped - 0.4).abs() < 0.01, "{case}: {report:?}");
            let sparse = sparsity.apply(model, &config(), format).unwrap();

            let (mut plain, newest) = prefilled(&sparse, &prompts, device);
            let expected = uncaptured(&sparse, &mut plain, &DensePolicy, &newest, steps, device);
            let distinct = expected[0]
                .iter()
                .collect::<std::collections::BTreeSet<_>>();
            assert!(distinct.len() > 5, "{case}: {} tokens", distinct.len());

            let (mut cache, newest) = prefilled(&sparse, &prompts, device);
            let recorded = graph_config();
            let graph = decode_graph(&sparse, &mut cache, &DensePolicy, &newest, recorded);
            let mut graph = graph.unwrap();
            assert_eq!(graph.run(steps).unwrap(), expected, "{case}");
            assert_recorded(&graph, &test_device, steps);
            drop(graph);
            assert_same_contents(&cache, &plain, &case);
        }
    }
}
