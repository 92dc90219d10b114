//! What a run writes: its checkpoints as it goes on, and the adapter at its end.

use super::{Trainer, name};
use crate::{
    Error, Result,
    error::{ResultExt, Setting},
    files::{self, replace},
    train::{
        checkpoint,
        learner::{Learner, NamedFile},
        metrics::Record,
        state::{TRAINER_STATE, TrainerState, optimizer_file},
    },
};

impl<L: Learner> Trainer<'_, L> {
    /// Writes the checkpoint of the present step unless it is there already, then removes those in excess.
    pub(super) fn save_once(&mut self) -> Result<()> {
        let step = self.state.step;
        if self.saved == Some(step) {
            return Ok(());
        }
        self.save().with_context(|| format!("the checkpoint after step {step} was not written{}", self.last_good()))?;
        self.saved = Some(step);
        let best = self.state.best.map(|b| b.step);
        let checkpoint = name(&checkpoint::directory(&self.run.output.path, step));
        self.record(Record::Checkpoint { step, checkpoint, best: best == Some(step) })?;
        match self.run.config.save_total_limit {
            Some(limit) => checkpoint::rotate(self.run.disk, &self.run.output.path, limit, step, best),
            None => Ok(()),
        }
    }

    fn save(&mut self) -> Result<()> {
        let step = self.state.step;
        self.log.sync()?;
        let (m, v) = self.run.learner.moments()?;
        if m.iter().chain(&v).any(|x| !x.is_finite()) {
            return Err(Error::failed("a moment of the optimizer is not finite"));
        }
        let mut files = self.run.learner.adapter_files()?;
        files.push(optimizer_file(&m, &v, step)?);
        files.push(NamedFile::new(TRAINER_STATE, files::json(&self.trainer_state())?));
        files.push(self.state.file()?);
        checkpoint::save(self.run.disk, &self.run.output.path, step, &files)?;
        Ok(())
    }

    fn trainer_state(&self) -> TrainerState {
        let epoch = self.plan.epoch(self.state.step);
        TrainerState::new(self.run.config, &self.state, epoch, self.plan.total(), &self.history)
    }

    /// The adapter and the state at the top of the output directory.
    pub(super) fn results(&mut self) -> Result<()> {
        let out = &self.run.output.path;
        if self.run.config.load_best_model_at_end
            && let Some(best) = self.state.best
            && best.step != self.state.step
        {
            let dir = checkpoint::directory(out, best.step);
            let loaded = checkpoint::verify(&dir).and_then(|_| self.run.learner.load_adapter(&dir));
            let setting = Setting::new("load-best-model-at-end", true);
            loaded.with_context(|| format!("{setting}: {}", dir.display()))?;
            self.run.observer.note(&format!("the final adapter is that of the best step, {}", best.step));
        }
        for file in self.run.learner.adapter_files()? {
            replace(self.run.disk, &out.join(&file.name), &file.bytes)?;
        }
        replace(self.run.disk, &out.join(TRAINER_STATE), &files::json(&self.trainer_state())?)
    }

    /// "; the last whole checkpoint is …", for errors.
    pub(super) fn last_good(&self) -> String {
        match self.saved {
            Some(step) => {
                let dir = checkpoint::directory(&self.run.output.path, step);
                format!("; the last whole checkpoint is {} (`resume = true` goes on from it)", dir.display())
            }
            None => "; there is no checkpoint yet".into(),
        }
    }
}
