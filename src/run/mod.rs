//! A run, assembled: settings become an open device, a model, data as tokens, a plan, and an engine that is loaded.
//!
//! | file | what is in it |
//! |---|---|
//! | [`adapter`] | an adapter that is used: found, and held to what it was trained beside |
//! | [`device`] | the device that the settings ask for, opened, with its speed and the room on it |
//! | [`engine`] | an engine planned for a device and loaded onto it |
//! | [`training`] | what a training run needs before its first step |
//! | [`forecast`] | what a training run will take, said before it starts |
//! | [`inference`] | a model that answers: with its adapter, its tokenizer and its device |
//!
//! Nothing here computes, and nothing here knows how a setting was given or what a terminal is.

pub mod adapter;
pub mod device;
pub mod engine;
pub mod forecast;
pub mod inference;
pub mod training;

/// Receives what is worth saying while a run is assembled.
pub trait Listener {
    /// Something the user should read, in a line.
    fn note(&mut self, text: &str);

    /// `done` of `total` weights are loaded.
    fn loading(&mut self, done: usize, total: usize);

    /// Loading is at an end, well or not.
    fn loaded(&mut self);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Listener;

    /// Says nothing.
    pub(crate) struct Silent;

    impl Listener for Silent {
        fn note(&mut self, _text: &str) {}
        fn loading(&mut self, _done: usize, _total: usize) {}
        fn loaded(&mut self) {}
    }
}
