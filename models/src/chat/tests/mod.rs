mod control;
mod golden;
mod sources;
