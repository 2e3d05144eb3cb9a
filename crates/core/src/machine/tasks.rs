//! The task list of a team that works by one: what its leader has planned, who did what, and what is left.
//!
//! A list is made of the leader's calls and the members' results alone, in their recorded order, so that a resumed run
//! has the same one. It must never know a model or a clock.
//!
//! Invariant: a task depends on tasks that were there before it, so no two wait for each other.

use crate::coerce::coerce;
use crate::id::DefinitionId;
use crate::message::{ToolCall, ToolResult};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The tools by which a leader keeps a task list. Agno's names.
pub const TASK_TOOLS: [&str; 7] = [
    "create_task",
    "update_task_status",
    "list_tasks",
    "add_task_note",
    "execute_task",
    "execute_tasks_parallel",
    "mark_all_complete",
];

/// Tasks in one list, at most.
const TASKS_MAX: usize = 200;

/// How much of a result the list shows, in bytes; the leader was told the whole one.
const RESULT_LEN_SHOWN: usize = 200;

/// A task for one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The member's place.
    pub member: usize,
    /// What it is told; nothing else.
    pub task: String,
}

/// What a leader has planned, and how far it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TaskList {
    tasks: Vec<Task>,
    /// The leader's own words on all of it, once it says that the goal is reached.
    summary: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Task {
    title: String,
    description: String,
    assignee: Option<usize>,
    depends_on: Vec<usize>,
    status: TaskStatus,
    /// A call of this turn has it worked on.
    is_worked_on: bool,
    result: Option<String>,
    notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TaskStatus {
    Pending,
    InProgress,
    Completed,
    Failed,
}

/// What a call to a tool of the list comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Decided {
    /// It is done; the leader is told this.
    Done(String),
    /// It makes no sense; the leader is told why.
    Refused(String),
    /// These tasks, by their places in the list, are to be worked on.
    Execute(Vec<(usize, Job)>),
}

impl TaskList {
    /// Takes a call of the leader in; none when it is to another tool.
    pub(super) fn decide(&mut self, call: &ToolCall, members: &[DefinitionId]) -> Option<Decided> {
        let arguments = Arguments::of(call);
        let decided = match call.function.name.as_str() {
            "create_task" => self.create(&arguments, members),
            "update_task_status" => self.update(&arguments),
            "list_tasks" => Ok(Decided::Done(self.text(members))),
            "add_task_note" => self.note(&arguments),
            "execute_task" => self.execute(&arguments, members),
            "execute_tasks_parallel" => self.execute_several(&arguments),
            "mark_all_complete" => {
                self.summary = Some(arguments.text("summary"));
                Ok(Decided::Done("the goal is marked as reached".to_owned()))
            }
            _ => return None,
        };
        Some(decided.unwrap_or_else(Decided::Refused))
    }

    /// A task that was worked on has ended like this.
    pub(super) fn ended(&mut self, task: usize, result: &ToolResult) {
        if let Some(task) = self.tasks.get_mut(task) {
            task.status = if result.is_error { TaskStatus::Failed } else { TaskStatus::Completed };
            task.is_worked_on = false;
            task.result = Some(result.content.clone());
        }
    }

    /// Whether nothing is left to do: no task was made, the leader says so, or every task has ended or never can.
    pub(super) fn is_over(&self) -> bool {
        self.summary.is_some() || (0..self.tasks.len()).all(|task| self.has_ended(task))
    }

    /// How many tasks are left.
    pub(super) fn left(&self) -> usize {
        (0..self.tasks.len()).filter(|task| !self.has_ended(*task)).count()
    }

    /// The list in words.
    pub(super) fn text(&self, members: &[DefinitionId]) -> String {
        if self.tasks.is_empty() {
            return "there are no tasks".to_owned();
        }
        let lines = self.tasks.iter().enumerate().map(|(place, task)| {
            let who = task.assignee.and_then(|member| members.get(member)).map_or("nobody", DefinitionId::as_str);
            let mut line = format!("[{}] {} ({}, assigned to {who})", place + 1, task.title, self.status(place));
            if !task.depends_on.is_empty() {
                line.push_str(&format!("\n    depends on: {}", ids(&task.depends_on)));
            }
            if let Some(result) = &task.result {
                let shown = &result[..result.floor_char_boundary(RESULT_LEN_SHOWN)];
                let more = if shown.len() < result.len() { "…" } else { "" };
                line.push_str(&format!("\n    result: {shown}{more}"));
            }
            task.notes.iter().for_each(|note| line.push_str(&format!("\n    note: {note}")));
            line
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn status(&self, task: usize) -> &'static str {
        match self.tasks[task].status {
            TaskStatus::Pending if self.is_dead(task) => "cannot start: a task it depends on has failed",
            TaskStatus::Pending if !self.missing(task).is_empty() => "blocked",
            TaskStatus::Pending => "pending",
            TaskStatus::InProgress => "in_progress",
            TaskStatus::Completed => "completed",
            TaskStatus::Failed => "failed",
        }
    }

    fn has_ended(&self, task: usize) -> bool {
        matches!(self.tasks[task].status, TaskStatus::Completed | TaskStatus::Failed) || self.is_dead(task)
    }

    /// Whether something it depends on, directly or not, has failed. Tasks depend on earlier ones alone.
    fn is_dead(&self, task: usize) -> bool {
        let mut dead: Vec<bool> = Vec::with_capacity(task + 1);
        for task in &self.tasks[..=task] {
            let is_lost = |other: &usize| dead[*other] || self.tasks[*other].status == TaskStatus::Failed;
            let is_dead = task.status != TaskStatus::Completed && task.depends_on.iter().any(is_lost);
            dead.push(is_dead);
        }
        dead[task]
    }

    /// What has to be completed before it can start.
    fn missing(&self, task: usize) -> Vec<usize> {
        let needed = self.tasks[task].depends_on.iter().copied();
        needed.filter(|other| self.tasks[*other].status != TaskStatus::Completed).collect()
    }

    fn create(&mut self, arguments: &Arguments, members: &[DefinitionId]) -> Result<Decided, String> {
        let title = arguments.text("title");
        if title.is_empty() {
            return Err("the title is empty: say what is to be done".to_owned());
        }
        let is_same = |task: &Task| task.title.to_lowercase() == title.to_lowercase();
        if let Some(place) = self.tasks.iter().position(is_same) {
            return Err(format!("task {} has this title already: use it, or choose another title", place + 1));
        }
        if self.tasks.len() >= TASKS_MAX {
            return Err(format!("there are {TASKS_MAX} tasks, which is the limit: work on these"));
        }
        let assignee = Some(arguments.text("assignee")).filter(|id| !id.is_empty());
        let assignee = assignee.map(|id| member(&id, members)).transpose()?;
        let depends_on = arguments.list("depends_on");
        let depends_on: Vec<_> = depends_on.iter().map(|id| self.find(id)).collect::<Result<_, _>>()?;
        let description = arguments.text("description");
        let (status, is_worked_on, result, notes) = (TaskStatus::Pending, false, None, Vec::new());
        self.tasks.push(Task { title, description, assignee, depends_on, status, is_worked_on, result, notes });
        // There is something to do again.
        self.summary = None;
        Ok(Decided::Done(format!("created task {}", self.tasks.len())))
    }

    fn update(&mut self, arguments: &Arguments) -> Result<Decided, String> {
        let place = self.find(&arguments.text("task_id"))?;
        let status = match arguments.text("status").as_str() {
            "pending" => TaskStatus::Pending,
            "in_progress" => TaskStatus::InProgress,
            "completed" => TaskStatus::Completed,
            "failed" => TaskStatus::Failed,
            other => {
                let problem = format!("{other:?} is not a status: choose pending, in_progress, completed or failed");
                return Err(problem);
            }
        };
        if matches!(status, TaskStatus::InProgress | TaskStatus::Completed) {
            self.check_ready(place)?;
        }
        let task = &mut self.tasks[place];
        task.status = status;
        let result = Some(arguments.text("result")).filter(|result| !result.is_empty());
        let has_ended = matches!(status, TaskStatus::Completed | TaskStatus::Failed);
        task.result = if has_ended { result.or(task.result.take()) } else { None };
        Ok(Decided::Done(format!("task {} is {}", place + 1, self.status(place))))
    }

    fn note(&mut self, arguments: &Arguments) -> Result<Decided, String> {
        let place = self.find(&arguments.text("task_id"))?;
        self.tasks[place].notes.push(arguments.text("note"));
        Ok(Decided::Done(format!("noted on task {}", place + 1)))
    }

    fn execute(&mut self, arguments: &Arguments, members: &[DefinitionId]) -> Result<Decided, String> {
        let place = self.find(&arguments.text("task_id"))?;
        let member_id = arguments.text("member_id");
        let member = match (member_id.as_str(), self.tasks[place].assignee) {
            ("", Some(assignee)) => assignee,
            (id, _) => member(id, members)?,
        };
        Ok(Decided::Execute(vec![self.begin(place, member)?]))
    }

    fn execute_several(&mut self, arguments: &Arguments) -> Result<Decided, String> {
        let mut places = Vec::new();
        for id in arguments.list("task_ids") {
            let place = self.find(&id)?;
            if !places.contains(&place) {
                places.push(place);
            }
        }
        if places.is_empty() {
            return Err("task_ids is empty: name the tasks".to_owned());
        }
        // All or none: what one call asks for is worked on side by side.
        let mut begun = self.clone();
        let jobs = places.into_iter().map(|place| {
            let member = begun.tasks[place].assignee;
            let member = member.ok_or_else(|| format!("task {} is assigned to nobody: use execute_task", place + 1))?;
            begun.begin(place, member)
        });
        let jobs = jobs.collect::<Result<Vec<_>, String>>()?;
        *self = begun;
        Ok(Decided::Execute(jobs))
    }

    fn begin(&mut self, place: usize, member: usize) -> Result<(usize, Job), String> {
        self.check_ready(place)?;
        if self.tasks[place].status == TaskStatus::Completed {
            return Err(format!("task {} is completed: create another one", place + 1));
        }
        let task = &mut self.tasks[place];
        if task.is_worked_on {
            return Err(format!("task {} is being worked on: wait for its result", place + 1));
        }
        task.is_worked_on = true;
        task.status = TaskStatus::InProgress;
        task.assignee = Some(member);
        let words = if task.description.is_empty() { &task.title } else { &task.description };
        Ok((place, Job { member, task: words.clone() }))
    }

    fn check_ready(&self, place: usize) -> Result<(), String> {
        let missing = self.missing(place);
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("task {} depends on {}, which must be completed first", place + 1, ids(&missing)))
    }

    fn find(&self, id: &str) -> Result<usize, String> {
        let number = id.trim().trim_start_matches('[').trim_end_matches(']').parse::<usize>().ok();
        let place = number.and_then(|number| number.checked_sub(1)).filter(|place| *place < self.tasks.len());
        place.ok_or_else(|| format!("there is no task {id:?}; there are {} tasks, from 1", self.tasks.len()))
    }
}

fn ids(places: &[usize]) -> String {
    places.iter().map(|place| (place + 1).to_string()).collect::<Vec<_>>().join(", ")
}

/// The member of this id.
///
/// # Errors
/// Which there are.
pub(super) fn member(id: &str, members: &[DefinitionId]) -> Result<usize, String> {
    members.iter().position(|member| member.as_str() == id).ok_or_else(|| {
        let known: Vec<_> = members.iter().map(DefinitionId::as_str).collect();
        format!("there is no member {id:?}; the members are {}", known.join(", "))
    })
}

/// What a model wrote as arguments, where the intention is clear.
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    pub(super) fn of(call: &ToolCall) -> Self {
        match call.arguments() {
            Ok(Value::Object(fields)) => Self(fields),
            _ => Self(Map::new()),
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        let value = self.0.get(name).cloned().unwrap_or_default();
        text_of(value)
    }

    /// A list of texts; one text counts as a list, its parts separated by commas.
    fn list(&self, name: &str) -> Vec<String> {
        let texts = match self.0.get(name).cloned().unwrap_or_default() {
            Value::Array(items) => items.into_iter().map(text_of).collect(),
            other => text_of(other).split(',').map(|part| part.trim().to_owned()).collect::<Vec<_>>(),
        };
        texts.into_iter().filter(|text| !text.is_empty()).collect()
    }
}

fn text_of(value: Value) -> String {
    let text = coerce(value, &json!({ "type": "string" })).unwrap_or_default();
    text.as_str().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: Value) -> ToolCall {
        ToolCall::new("c", name, arguments.to_string())
    }

    fn members() -> Vec<DefinitionId> {
        ["ada", "grace"].map(|id| DefinitionId::parse(id).unwrap()).to_vec()
    }

    #[test]
    fn a_list_is_kept_in_order_and_what_makes_no_sense_is_refused_with_the_reason() {
        let mut list = TaskList::default();
        let mut say = |name: &str, arguments: Value| match list.decide(&call(name, arguments), &members()) {
            Some(Decided::Done(text) | Decided::Refused(text)) => text,
            Some(Decided::Execute(jobs)) => {
                let jobs: Vec<_> =
                    jobs.iter().map(|(task, job)| format!("{task}>{}:{}", job.member, job.task)).collect();
                jobs.join(" ")
            }
            None => "another tool".to_owned(),
        };
        for (name, arguments, said) in [
            ("list_tasks", json!({}), "there are no tasks"),
            ("create_task", json!({ "title": " Dig ", "assignee": "ada" }), "created task 1"),
            (
                "create_task",
                json!({ "title": "dig" }),
                "task 1 has this title already: use it, or choose another title",
            ),
            ("create_task", json!({ "title": "" }), "the title is empty: say what is to be done"),
            (
                "create_task",
                json!({ "title": "x", "assignee": "bob" }),
                "there is no member \"bob\"; the members are ada, grace",
            ),
            (
                "create_task",
                json!({ "title": "x", "depends_on": [9] }),
                "there is no task \"9\"; there are 1 tasks, from 1",
            ),
            ("create_task", json!({ "title": "Sow", "description": "sow it", "depends_on": ["1"] }), "created task 2"),
            ("create_task", json!({ "title": "Reap", "assignee": "grace", "depends_on": "1, [2]" }), "created task 3"),
            (
                "execute_task",
                json!({ "task_id": 2, "member_id": "grace" }),
                "task 2 depends on 1, which must be completed first",
            ),
            (
                "execute_tasks_parallel",
                json!({ "task_ids": ["1", "2"] }),
                "task 2 is assigned to nobody: use execute_task",
            ),
            ("execute_tasks_parallel", json!({ "task_ids": [1, 1] }), "0>0:Dig"),
            ("execute_task", json!({ "task_id": 1 }), "task 1 is being worked on: wait for its result"),
            (
                "update_task_status",
                json!({ "task_id": "1", "status": "done" }),
                "\"done\" is not a status: choose pending, in_progress, completed or failed",
            ),
            (
                "update_task_status",
                json!({ "task_id": "1", "status": "completed", "result": "a hole" }),
                "task 1 is completed",
            ),
            ("execute_task", json!({ "task_id": "2", "member_id": "grace" }), "1>1:sow it"),
            ("add_task_note", json!({ "task_id": "2", "note": "mind the crows" }), "noted on task 2"),
            ("execute_task", json!({ "task_id": "1" }), "task 1 is completed: create another one"),
            ("dance", json!({}), "another tool"),
        ] {
            assert_eq!(say(name, arguments.clone()), said, "{name} {arguments}");
        }
        assert_eq!(
            list.text(&members()),
            "[1] Dig (completed, assigned to ada)\n    result: a hole\n\
             [2] Sow (in_progress, assigned to grace)\n    depends on: 1\n    note: mind the crows\n\
             [3] Reap (blocked, assigned to grace)\n    depends on: 1, 2"
        );
        assert_eq!((list.is_over(), list.left()), (false, 2));
        list.ended(1, &ToolResult::error("crows"));
        assert_eq!((list.is_over(), list.left()), (true, 0), "what depends on a failure never starts");
        assert!(list.text(&members()).contains("cannot start"));
    }

    #[test]
    fn nothing_of_a_call_that_cannot_be_made_whole_is_begun() {
        let mut list = TaskList::default();
        for (title, depends_on) in [("a", json!([])), ("b", json!(["1"]))] {
            let arguments = json!({ "title": title, "assignee": "ada", "depends_on": depends_on });
            list.decide(&call("create_task", arguments), &members());
        }
        let before = list.clone();
        let both = list.decide(&call("execute_tasks_parallel", json!({ "task_ids": ["1", "2"] })), &members());
        assert_eq!(both, Some(Decided::Refused("task 2 depends on 1, which must be completed first".to_owned())));
        assert_eq!(list, before);
        assert_eq!(list.decide(&call("mark_all_complete", json!({})), &members()).is_some(), list.is_over());
    }
}
