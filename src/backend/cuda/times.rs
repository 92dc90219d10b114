//! Time of each operation by the device's own clock: an event before its commands and one behind them.

use super::driver::{Driver, Event};
use crate::{Result, backend::OperationTime};

/// Operations since times were last taken.
#[derive(Debug, Default)]
pub(super) struct Times {
    spans: Vec<(&'static str, Event, Event)>,
    free: Vec<Event>,
}

impl Times {
    /// An event here, if times are wanted.
    pub fn begin(this: &mut Option<Self>, driver: &mut dyn Driver) -> Result<Option<Event>> {
        this.as_mut().map(|times| times.mark(driver)).transpose()
    }

    /// The operation that began at `from` ends here.
    pub fn end(
        this: &mut Option<Self>,
        driver: &mut dyn Driver,
        operation: &'static str,
        from: Option<Event>,
    ) -> Result<()> {
        if let (Some(times), Some(from)) = (this, from) {
            let to = times.mark(driver)?;
            times.spans.push((operation, from, to));
        }
        Ok(())
    }

    fn mark(&mut self, driver: &mut dyn Driver) -> Result<Event> {
        let event = match self.free.pop() {
            Some(event) => event,
            None => driver.event()?,
        };
        driver.record(event)?;
        Ok(event)
    }

    /// Times by operation, the longest first; waits for the last of them.
    pub fn take(&mut self, driver: &mut dyn Driver) -> Result<Vec<OperationTime>> {
        let mut times: Vec<OperationTime> = Vec::new();
        for (operation, from, to) in std::mem::take(&mut self.spans) {
            let seconds = f64::from(driver.elapsed_ms(from, to)?) * 1e-3;
            self.free.extend([from, to]);
            match times.iter_mut().find(|t| t.operation == operation) {
                Some(t) => (t.calls, t.seconds) = (t.calls + 1, t.seconds + seconds),
                None => times.push(OperationTime { operation, calls: 1, seconds }),
            }
        }
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}
