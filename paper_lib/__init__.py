"""A reproducible companion to "Object Representations as Fixed Points" (Chang, Griffiths, Levine
2022). What is where, in the order in which to read it:

fixed_point   solvers, adjoints, Jacobians: pure tensors, which know nothing of slots
models        slot attention and the models around it, each as its paper writes it
training      one plain loop, and what it trains of each model
runs          the engine: what a run is, where its results live, getting one
paper         the content: how large each run is, which figure shows which, how claims are judged

Beside them, and read when they are needed:

data          pictures: generators, and readers of the authors' files, behind one door
metrics       Frechet distance, masks, sets of objects
system        files, machine, memory, progress

Arrows point one way: system -> fixed_point -> models -> training -> runs -> paper -> notebooks;
data and metrics depend on system alone.
"""
