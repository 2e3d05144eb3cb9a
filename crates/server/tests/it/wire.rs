//! Bodies, frames and forms as Agno's clients expect them: compared with what AgentOS answered.

mod forms;
mod frames;
mod media;
mod shapes;
