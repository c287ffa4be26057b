from paper_lib.runs.engine import main

main()
