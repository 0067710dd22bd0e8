use std::sync::LazyLock;

use super::*;
use crate::{checkpoint, model::tiny_model};

fn vocabulary() -> Arc<Vocabulary> {
    static TRAINED: LazyLock<Arc<Vocabulary>> =
        LazyLock::new(|| Arc::new(Vocabulary::train(600, 1).unwrap()));
    TRAINED.clone()
}

fn trainer(schedule: Schedule) -> Trainer {
    let vocabulary = vocabulary();
    let config = tiny_model(vocabulary.len());
    Trainer::new(&config, schedule, vocabulary, 5, &Device::default())
}

fn short_schedule() -> Schedule {
    let mut schedule = Schedule::tiny();
    schedule.phases[0].steps = 15;
    schedule.phases[1].steps = 10;
    schedule
}

fn parameters(model: CausalLm) -> Vec<u8> {
    model.into_record().into_bytes().unwrap().to_vec()
}

fn embedding(model: &CausalLm) -> Vec<f32> {
    let weight = model.embed_tokens.weight.val().inner().into_data();
    weight.try_to_vec().unwrap()
}

#[test]
fn the_loss_falls() {
    let mut trainer = trainer(Schedule::tiny());
    let first = trainer.report().unwrap().unwrap();
    let mut last = first.clone();
    while trainer.progress.phase == 0 {
        last = trainer.report().unwrap().unwrap();
    }
    assert!(first.loss > 4.0, "{first:?}");
    assert!(last.loss < 0.8 * first.loss, "{first:?} {last:?}");
    assert!(last.answer_loss < 0.8 * first.answer_loss);
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let mut whole = trainer(short_schedule());
    let mut losses = Vec::new();
    while let Some(report) = whole.report().unwrap() {
        losses.push(report.loss);
    }
    // Ten and five steps of the first phase, ten of the second.
    assert_eq!(losses.len(), 3);

    let folder = tempfile::tempdir().unwrap();
    let mut first = trainer(short_schedule());
    let loss = first.report().unwrap().unwrap().loss;
    assert_eq!(loss, losses[0]);
    checkpoint::save(folder.path(), &first).unwrap();
    drop(first);

    let mut second = trainer(short_schedule());
    assert!(checkpoint::resume(folder.path(), &mut second).unwrap());
    assert_eq!(second.progress.step, 10);
    let rest = std::iter::from_fn(|| second.report().unwrap()).map(|report| report.loss);
    assert_eq!(rest.collect::<Vec<_>>(), losses[1..]);
    assert_eq!(embedding(&second.model), embedding(&whole.model));
    let (step, phase) = (second.progress.step, second.progress.phase);
    assert_eq!((step, phase), (whole.progress.step, whole.progress.phase));
}

#[test]
fn high_accuracy_ends_a_phase_early() {
    let mut schedule = short_schedule();
    schedule.phases[0].promote_at = Some(0.0);
    let mut trainer = trainer(schedule);
    trainer.report().unwrap();
    assert_eq!((trainer.progress.phase, trainer.progress.step), (1, 10));
    trainer.report().unwrap();
    assert!(trainer.is_complete());
    assert!(trainer.report().unwrap().is_none());
}

#[test]
fn the_newest_checkpoint_counts_and_older_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = trainer(short_schedule());
    assert!(!checkpoint::resume(folder.path(), &mut trainer).unwrap());
    trainer.report().unwrap();
    checkpoint::save(folder.path(), &trainer).unwrap();
    let before = parameters(trainer.snapshot());
    trainer.report().unwrap();
    checkpoint::save(folder.path(), &trainer).unwrap();
    assert_ne!(parameters(trainer.snapshot()), before);
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let names = entries
        .map(|entry| entry.unwrap().file_name())
        .collect::<Vec<_>>();
    assert_eq!(names, ["checkpoint-00000015"]);
}
